"""The motion autoencoder as the rest of the system uses it: encode against a reference, decode after one.

`begin` makes what a session needs once (`Memory.constant`). Nothing is remembered between latent frames
(`Memory.moving` is empty), and each is decoded by itself: a stream and the whole clip are the same computation.
"""

from dataclasses import dataclass
from pathlib import Path

import torch
import torch.nn.functional as F
from jaxtyping import Float, UInt8
from torch import Tensor

from gwm.autoencoders.motion.animate import fine_at_working_size, layers, taper
from gwm.autoencoders.motion.canvas import Canvas, Change, draw, make_canvas
from gwm.autoencoders.motion.code import FRAMES, WIDTH, from_latents, to_latents
from gwm.autoencoders.motion.config import MotionConfig
from gwm.autoencoders.motion.network import SIDE, Features, MotionNetwork
from gwm.autoencoders.motion.warp import shrink
from gwm.weights import load_weights, read_header

KIND = "motion"


@dataclass(frozen=True)
class Reference:
    """An image as latents see it: the latent of the image itself, which is zero, and what networks know about it."""

    latent: Float[Tensor, "1 1 57 2 2"]
    features: Features
    image: UInt8[Tensor, "s s 3"]  # at its own size, which is that of decoded pictures
    pasted: bool  # part of a larger picture: motion fades out towards the border


@dataclass(frozen=True)
class Memory:
    """A session's decoder: what it was begun with, and what latent frames leave behind, which is nothing."""

    constant: tuple[Features, Canvas]
    moving: tuple[Tensor, ...] = ()


class MotionAutoencoder:
    """Frozen. bf16: networks compute in bf16, which only some CPUs do faster; pictures are drawn as always."""

    temporal_stride = FRAMES
    latent_channels = WIDTH

    def __init__(self, network: MotionNetwork, *, bf16: bool = False) -> None:
        self.network, self.bf16 = network.eval().requires_grad_(False), bf16
        self.taper = taper(network.config)

    @property
    def device(self) -> torch.device:
        return self.network.decoder.basis.fields.device

    @torch.no_grad()
    def encode_reference(self, image: UInt8[Tensor, "s s 3"], *, pasted: bool = False) -> Reference:
        """A square portrait, framed as `gwm.face.crop_to_face` frames it, of 64 px or more.

        Raises:
            ValueError: the image is not square or too small.
        """
        height, width, _ = image.shape
        if height != width or height < GRID_PX:
            raise ValueError(
                f"image of {width}x{height} px must be square and at least {GRID_PX} px: crop to the face."
            )
        image = image.to(self.device)
        with self._precision():
            features = self.network.reference(resized(image[None]))
        return Reference(torch.zeros(1, 1, WIDTH, 2, 2, device=self.device), features, image, pasted)

    @torch.no_grad()
    def encode(self, frames: UInt8[Tensor, "t s s 3"], reference: Reference) -> Float[Tensor, "1 f 57 2 2"]:
        """Latents of pictures that are framed as the reference is; a multiple of four of them."""
        target = reference.features.image
        with self._precision():
            codes = [self.network.encoder(resized(part.to(self.device)), target.expand(len(part), -1, -1, -1))
                     for part in frames.split(8)]  # fmt: skip
        return to_latents(torch.cat(codes)[None])

    def begin(self, reference: Reference) -> Memory:
        share = layers(reference.features).share
        return Memory((reference.features, make_canvas(reference.image, share, pasted=reference.pasted)))

    @torch.no_grad()
    def decode(
        self, latents: Float[Tensor, "1 f 57 2 2"], memory: Memory
    ) -> tuple[UInt8[Tensor, "1 4*f s s 3"], Memory]:
        """Pictures of the reference's size, in uint8: enlarged floats would be most of the work."""
        canvas = memory.constant[1]
        pictures = [draw(canvas, self.change(from_latents(one)[0], memory)) for one in latents.split(1, dim=1)]
        return torch.cat(pictures)[None], memory

    @torch.no_grad()
    def change(self, code: Float[Tensor, "4 57"], memory: Memory) -> Change:
        """What the decoder says of one latent frame; the part that a CUDA graph can hold."""
        features = memory.constant[0].repeated(len(code))
        with self._precision():
            coarse = self.network.decoder.coarse(code, features)
            residual, share = fine_at_working_size(self.network.decoder, code, coarse, features)
        fade = self.taper.to(code.device)
        return Change(coarse.flow, residual * fade, share * fade)

    def _precision(self) -> torch.autocast:
        return torch.autocast(self.device.type, torch.bfloat16, enabled=self.bf16)


GRID_PX = 64


def resized(images: UInt8[Tensor, "n s s 3"]) -> Float[Tensor, "n 3 256 256"]:
    """At the working size, in [-1, 1]."""
    pictures = images.movedim(-1, 1).float() / 127.5 - 1
    if pictures.shape[-1] >= SIDE:
        return shrink(pictures, (SIDE, SIDE))
    return F.interpolate(pictures, size=(SIDE, SIDE), mode="bicubic", align_corners=False).clamp(-1, 1)


def load_motion(folder: Path, *, bf16: bool = False) -> MotionAutoencoder:
    """The autoencoder that stage=motion wrote.

    Raises:
        FileNotFoundError: there is none.
        ValueError: it is of another kind or shape.
    """
    network = MotionNetwork(MotionConfig.from_json(read_header(folder, kind=KIND)["config"]))
    load_weights(folder, network)
    return MotionAutoencoder(network, bf16=bf16)
