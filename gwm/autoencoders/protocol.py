"""What every autoencoder does: pictures to latents and back, given a reference image.

    reference = autoencoder.encode_reference(image)
    latents = autoencoder.encode(pixel_frames, reference)
    memory = autoencoder.begin(reference)
    pixel_frames, memory = autoencoder.decode(latents, memory)

Pictures are uint8 RGB, rows first, as files and screens have them; a family that trains on floats has methods of its
own for them. `b` references and their clips are independent of each other. Decoding a stream in parts, each with the
memory that the part before returned, gives the same bits as decoding it whole.
"""

from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

import torch
from jaxtyping import Float, UInt8
from torch import Tensor

from gwm.condition.spec import Control

KIND = "autoencoder"  # in the header of weights


def check_no_margin(margin: int, pasted: bool, family: str) -> None:
    """Refuse what is around a picture, for a family that makes every pixel anew.

    Raises:
        ValueError: a margin is given, or a border is to be kept.
    """
    if margin or pasted:
        raise ValueError(
            f"margin={margin}, pasted={pasted} must be 0, False with family={family}: it makes the border anew too, "
            "with a seam."
        )


@dataclass(frozen=True)
class Reference:
    """A reference image, encoded."""

    latent: Float[Tensor, "b 1 c h w"]  # frame 0 of the diffusion model; like all latents without a unit, of order 1
    features: tuple[Tensor, ...]  # what else `encode` and `begin` need of the image, in an order of the family's own


@dataclass(frozen=True)
class Memory:
    """What decoding the next latent frame needs beside its latent. No tensor of it is ever changed in place."""

    constant: tuple[Tensor, ...]  # of the reference: the same for the whole stream
    moving: tuple[Tensor, ...]  # of the frames before, in shapes that never change: undo and CUDA graphs copy it


@runtime_checkable
class AutoencoderConfig(Protocol):
    """Shape of an autoencoder, stored in every contract and beside all weights."""

    @property
    def family(self) -> str:
        """The family whose class has this shape."""
        ...

    @property
    def latent_channels(self) -> int: ...

    @property
    def spatial_stride(self) -> int:
        """Pixels per latent cell, along each side, of pictures in the contract's resolution."""
        ...

    @property
    def temporal_stride(self) -> int:
        """Pixel frames per latent frame."""
        ...

    @property
    def working_side(self) -> int | None:
        """Px along each side of the square pictures whose latents these are, whatever size is shown: the resolution
        of every contract. None: pictures are shown in the contract's resolution, which may be any."""
        ...

    def margin(self, side: int) -> int:
        """Px around pictures of this side, beyond each of their sides, that `encode_reference` may be given too."""
        ...

    @property
    def controls(self) -> tuple[Control, ...]:
        """The numbers of a pixel frame's code, in order; () where latents are no codes that callers could set."""
        ...

    def to_json(self) -> dict[str, Any]: ...


@runtime_checkable
class Autoencoder(Protocol):
    """A frozen module. Of `torch.nn.Module` callers use only the methods at the end."""

    @property
    def config(self) -> AutoencoderConfig: ...

    @property
    def device(self) -> torch.device:
        """Of the weights, latents and decoded pictures; given pictures may lie elsewhere."""
        ...

    @property
    def dtype(self) -> torch.dtype:
        """Of latents."""
        ...

    def encode_reference(
        self, image: UInt8[Tensor, "b height width 3"], *, margin: int = 0, pasted: bool = False
    ) -> Reference:
        """
        margin: px of the image beyond each side of the picture that is encoded: 0, or as the config says.
        pasted: pictures will be shown as part of a larger one: they are decoded with the margin, and their border is
            the image's.

        Raises:
            ValueError: the image is of a size that the family does not encode, or it knows no margin.
        """
        ...

    def encode(
        self, pixel_frames: UInt8[Tensor, "b t height width 3"], reference: Reference
    ) -> Float[Tensor, "b f c h w"]:
        """Latents of the pictures that follow the reference, which is not among them.

        Raises:
            ValueError: t is no multiple of the temporal stride, or as `encode_reference`.
        """
        ...

    def begin(self, reference: Reference) -> Memory:
        """Memory of a stream that follows the reference; costs as much as a decoded latent frame, or less."""
        ...

    def decode(
        self, latents: Float[Tensor, "b f c h w"], memory: Memory
    ) -> tuple[UInt8[Tensor, "b t height width 3"], Memory]:
        """Pictures of the reference's size, if pasted with its margin; and the memory for what follows, with the same
        constant part."""
        ...

    def from_latent(self, latent: Float[Tensor, "b 1 c h w"]) -> Reference:
        """A reference of which only the latent was kept: enough for `begin`, not for `encode`.

        Raises:
            ValueError: this family's decoder must see the image.
        """
        ...

    def fuse(self) -> None:
        """Exchange layers for faster ones where the device has some; pictures stay the same but for rounding."""
        ...

    def compute_in(self, dtype: torch.dtype) -> None:
        """Let networks compute in float32 or bfloat16; latents may stay in float32."""
        ...

    def to(self, *args: Any, **kwargs: Any) -> "Autoencoder": ...

    def state_dict(self) -> dict[str, Tensor]: ...
