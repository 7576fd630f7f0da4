"""Family `wan`: Wan's autoencoders, that is diffusers' layers, with the stream's state outside of them."""

from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from einops import rearrange
from jaxtyping import Float, UInt8
from torch import Tensor, nn

from gwm.autoencoders.protocol import Memory, Reference, check_no_margin
from gwm.media.pixels import as_bytes, as_float
from gwm.optional import optional_module
from gwm.wan.files import component, read_tensors
from gwm.wan.state_dict import described
from gwm.wan.vae_config import WAN2_1_VAE, WAN2_2_VAE, WanVAEConfig, diffusers_arguments, diffusers_key, read_vae_config
from gwm.weights import check_keys
from kernels.causal_input import causal_input

RELEASED = {"Wan2.1_VAE.pth": WAN2_1_VAE, "Wan2.2_VAE.pth": WAN2_2_VAE}
ORIGINAL, DIFFUSERS = "conv1.weight", "quant_conv.weight"  # the last convolution of the encoder, in both layouts
COMMAND = "pip install 'gwm[wan]'"
MEMORY_FRAMES = 2  # that a causal convolution of width 3 looks back on


# The last inputs of every causal convolution, which decoding the next latent frame needs. Owned by the caller, never
# changed in place.
WanVAEState = tuple[Float[Tensor, "b _ 2 _ _"], ...]


class WanVAE(nn.Module):
    """Causal autoencoder whose first latent frame is one pixel frame, and each later one four.

    Latents are normalised with the statistics in the config. Decoding frame by frame gives, to the bit, what decoding
    the clip whole gives.
    """

    mean: Tensor
    std: Tensor

    def __init__(self, config: WanVAEConfig) -> None:
        super().__init__()
        self.config = config
        diffusers = optional_module("diffusers", COMMAND)
        self.model = diffusers.AutoencoderKLWan(**diffusers_arguments(config))
        # Where the first frame must find nothing: these would otherwise double its number.
        self.doublings = [i for i, (conv, _) in enumerate(_causal_convolutions(self.model.decoder)) if _doubles(conv)]
        self.register_buffer("mean", torch.tensor(config.latents_mean)[:, None, None], persistent=False)
        self.register_buffer("std", torch.tensor(config.latents_std)[:, None, None], persistent=False)

    @property
    def device(self) -> torch.device:
        return self.mean.device

    @property
    def dtype(self) -> torch.dtype:
        return self.mean.dtype

    def encode_reference(self, image: UInt8[Tensor, "b h w 3"], *, margin: int = 0, pasted: bool = False) -> Reference:
        """The image is the first frame of a clip; frames after it are encoded together with it."""
        check_no_margin(margin, pasted, self.config.family)
        frame = as_float(image).to(self.mean)[:, None]
        return Reference(self.encode_pixels(frame), features=(frame,))

    def encode(self, pixel_frames: UInt8[Tensor, "b t h w 3"], reference: Reference) -> Float[Tensor, "b f c _ _"]:
        (frame,) = reference.features
        return self.encode_pixels(torch.cat([frame, as_float(pixel_frames).to(self.mean)], dim=1))[:, 1:]

    def begin(self, reference: Reference) -> Memory:
        """Decode the reference's own latent, so that every later latent frame gives four pixel frames."""
        return Memory(constant=(), moving=self.decode_pixels(reference.latent)[1])

    def decode(self, latents: Float[Tensor, "b f c h w"], memory: Memory) -> tuple[UInt8[Tensor, "b t _ _ 3"], Memory]:
        pixel_frames, moving = self.decode_pixels(latents, memory.moving)
        return as_bytes(pixel_frames), Memory(memory.constant, moving)

    def from_latent(self, latent: Float[Tensor, "b 1 c h w"]) -> Reference:
        return Reference(latent, features=())

    def fuse(self) -> None:
        if self.device.type == "cuda":
            fuse(self.model.decoder)

    def compute_in(self, dtype: torch.dtype) -> None:
        self.to(dtype)

    def encode_pixels(self, pixel_frames: Float[Tensor, "b t 3 h w"]) -> Float[Tensor, "b f c _ _"]:
        """1 + 4 k pixel frames in [-1, 1] to 1 + k normalised latents (the posterior's mode).

        Raises:
            ValueError: another number of frames, or height or width no multiple of the spatial stride.
        """
        t, _, h, w = pixel_frames.shape[1:]
        time, space = self.config.temporal_stride, self.config.spatial_stride
        if t % time != 1 or h % space or w % space:
            raise ValueError(
                f"pixel_frames has {t} frames of {h}x{w}; frames must be 1 plus a multiple of {time}, height and width "
                f"multiples of {space}. Crop the clip; an image or the frame before it comes first."
            )
        moments = self.model.encode(rearrange(pixel_frames, "b t c h w -> b c t h w")).latent_dist
        return (rearrange(moments.mode(), "b c f h w -> b f c h w") - self.mean) / self.std

    def initial_state(self, latents: Float[Tensor, "b f c h w"]) -> WanVAEState:
        """What the convolutions see before the first frame of a stream with latents of this shape and type."""
        b, _, _, h, w = latents.shape
        return tuple(
            latents.new_zeros(b, conv.in_channels, MEMORY_FRAMES, scale * h, scale * w)
            for conv, scale in _causal_convolutions(self.model.decoder)
        )

    def decode_pixels(
        self, latents: Float[Tensor, "b f c h w"], state: Sequence[Tensor] | None = None
    ) -> tuple[Float[Tensor, "b t 3 _ _"], WanVAEState]:
        """Latents to pixel frames (about [-1, 1], not clamped), and the state to pass with the next chunk. Without a
        state the first latent frame is the first of all, and one pixel frame instead of four."""
        x = rearrange(latents * self.std + self.mean, "b f c h w -> b c f h w")
        packs = []
        # One by one, the first convolution too: of other lengths it would give other last bits.
        for frame in x.split(1, dim=2):
            pack, state = self._decode_frame(frame, state)
            packs.append(pack)
        assert state is not None, "jaxtyping has checked that there are frames"
        # diffusers orders folded pixels (colour, column, row).
        p = self.config.patch
        return rearrange(torch.cat(packs, dim=2), "b (c j i) t h w -> b t c (h i) (w j)", i=p, j=p), tuple(state)

    def _decode_frame(
        self, x: Float[Tensor, "b c 1 h w"], state: Sequence[Tensor] | None
    ) -> tuple[Float[Tensor, "b _ t _ _"], WanVAEState]:
        before = self.initial_state(rearrange(x, "b c f h w -> b f c h w")) if state is None else state
        memory: list[Any] = list(before)
        if state is None:
            for i in self.doublings:
                memory[i] = None
        x = self.model.post_quant_conv(x)
        made = self.model.decoder(x, feat_cache=memory, feat_idx=[0], first_chunk=state is None)
        # diffusers leaves a marker, and no tensor, where the first frame was not doubled: it stands for zeros.
        return made, tuple(new if isinstance(new, Tensor) else old for new, old in zip(memory, before, strict=True))


def load_wan_vae(path: Path, *, config: WanVAEConfig | None = None) -> WanVAE:
    """A frozen autoencoder in evaluation mode, in float32.

    `path`: a diffusers pipeline or its vae/; or a folder of the original release or its file.

    Args:
        config: the shape, where it is neither in a `config.json` nor one of the two that were published.

    Raises:
        FileNotFoundError: there is no checkpoint.
        ValueError: `config.json` differs from `config`, it is no Wan autoencoder, or tensors are missing, foreign,
            misshaped, quantised or not finite.
    """
    path = _file_of_release(component(path, "vae"))
    if (path / "config.json").is_file():
        found = read_vae_config(path / "config.json")
        if config is not None and config != found:
            raise ValueError(f"{path}/config.json is another autoencoder than config={config}.")
        config = found
    weights = read_tensors(path)
    vae = WanVAE(config or _released(weights, source=str(path)))
    expected, config = vae.model.state_dict(), vae.config
    if ORIGINAL in weights:  # the original release; what it should not have keeps its name, for the error
        names = {key: diffusers_key(key, config) for key in weights}
        weights = {names[key] if names[key] in expected else key: tensor for key, tensor in weights.items()}
    check_keys(weights, expected, source=str(path))
    vae.model.load_state_dict({key: tensor.float() for key, tensor in weights.items()}, assign=True)
    return vae.eval().requires_grad_(False)


def _released(weights: Mapping[str, Tensor], *, source: str) -> WanVAEConfig:
    """The published shape that has as many latent channels."""
    name = next((name for name in (ORIGINAL, DIFFUSERS) if name in weights), None)
    if name is None:
        raise ValueError(
            f"{source} has neither {ORIGINAL} (original release) nor {DIFFUSERS} (diffusers): it is no Wan "
            f"autoencoder. {described(weights)}"
        )
    channels = weights[name].shape[0] // 2  # mean and variance
    shapes = {config.latent_channels: config for config in RELEASED.values()}
    if channels not in shapes:
        raise ValueError(
            f"{source} has {channels} latent channels, must have one of {sorted(shapes)}, as the published "
            "autoencoders have, or a config.json beside it."
        )
    return shapes[channels]


def _file_of_release(path: Path) -> Path:
    """The autoencoder's file in a folder of the original release, where the transformer lies too; else `path`."""
    return next((path / name for name in RELEASED if (path / name).is_file()), path)


def _causal_convolutions(decoder: Any) -> Iterator[tuple[nn.Conv3d, int]]:
    """Convolutions that see earlier frames, in order of use, and the side of their input in units of the latent's."""
    blocks = list(decoder.up_blocks)
    parts = [(decoder.conv_in, 1), (decoder.mid_block, 1)]
    parts += [(block, 2**i) for i, block in enumerate(blocks)]
    parts += [(decoder.conv_out, 2 ** (len(blocks) - 1))]
    for part, scale in parts:
        for module in part.modules():
            if isinstance(module, nn.Conv3d) and module.kernel_size[0] > 1:
                yield module, scale


def _doubles(conv: nn.Conv3d) -> bool:
    """Whether the convolution makes two frames of one: those see no neighbours in space."""
    return conv.kernel_size[1] == 1


EPS = 1e-24  # of the mean square, where diffusers divides by a norm of at least 1e-12: either way black stays black
BLOCK = "WanResidualBlock"


def fuse(decoder: nn.Module) -> None:
    """Let the residual blocks of diffusers' decoder use `causal_input`, in channels-last memory.

    Only where a stream is decoded, so with a memory. The same but for rounding, which diffusers does between norm,
    weight and SiLU too.
    """
    for module in decoder.modules():
        if type(module).__name__ == BLOCK:
            module.forward = partial(_residual, module)


def _residual(block: Any, x: Tensor, feat_cache: list[Any], feat_idx: list[int]) -> Tensor:
    """Arguments are called as diffusers calls them: what all convolutions remember, and whose turn it is."""
    y = _convolved(block.norm1, block.conv1, x, feat_cache, feat_idx)
    return block.conv_shortcut(x) + _convolved(block.norm2, block.conv2, y, feat_cache, feat_idx)


def _convolved(norm: Any, conv: nn.Conv3d, x: Tensor, memory: list[Any], place: list[int]) -> Tensor:
    frames, past = x.movedim(1, -1), memory[place[0]].movedim(1, -1)
    num_frames, num_past = frames.shape[1], past.shape[1]
    buffer = frames.new_empty(len(x), num_frames + num_past, *frames.shape[2:])
    buffer[:, num_frames:] = past  # where it was before the kernel moves the buffer on
    causal_input(frames, norm.gamma.flatten(), buffer, eps=EPS)
    made = buffer.movedim(-1, 1)
    memory[place[0]] = made[:, :, -num_past:]
    place[0] += 1
    return F.conv3d(made, conv.weight, conv.bias, padding=(0, 1, 1))
