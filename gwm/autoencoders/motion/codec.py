"""Family `motion`: encode against a reference, move that reference's picture at its own size.

All that is remembered between latent frames is where head and eyes were (`Memory.moving`); pictures are drawn each by
itself: a stream and the whole clip are the same computation.
"""

from dataclasses import fields
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float, UInt8
from torch import Tensor, nn

from gwm.autoencoders.motion.canvas import Canvas, Change, draw, fade_of, make_canvas
from gwm.autoencoders.motion.code import FRAMES, WIDTH, MotionConfig, from_latents, steadied, to_latents
from gwm.autoencoders.motion.network import SIDE, Features, MotionNetwork
from gwm.autoencoders.motion.warp import shrink
from gwm.autoencoders.motion.working_frames import fine_at_working_size, layers, taper
from gwm.autoencoders.protocol import KIND, Memory, Reference
from gwm.media.framing import continued
from gwm.weights import load_weights, read_header

NUM_FEATURES = len(fields(Features))


class MotionAutoencoder(nn.Module):
    """The networks of a `MotionNetwork`, by the same names. With `compute_in(torch.bfloat16)` they compute in bf16,
    which only some CPUs do faster; flows and pictures are computed as always.
    """

    taper: Tensor

    def __init__(self, network: MotionNetwork) -> None:
        super().__init__()
        self.config, self.bf16 = network.config, False
        self.reference, self.decoder, self.encoder = network.reference, network.decoder, network.encoder
        self.register_buffer("taper", taper(network.config), persistent=False)

    @property
    def device(self) -> torch.device:
        return self.taper.device

    @property
    def dtype(self) -> torch.dtype:
        return self.taper.dtype

    def compute_in(self, dtype: torch.dtype) -> None:
        self.bf16 = dtype == torch.bfloat16

    def fuse(self) -> None:
        """There are no faster layers."""

    @torch.no_grad()
    def encode_reference(
        self, image: UInt8[Tensor, "b s1 s2 3"], *, margin: int = 0, pasted: bool = False
    ) -> Reference:
        """Square portraits framed as `gwm.media.portraits.crop_to_face` frames them, of 64 px or more. Their latent is
        zero. What is not known around them is continued.

        Raises:
            ValueError: the image is not square or too small, or the margin is not the config's.
        """
        count, height, width, _ = image.shape
        side = height - 2 * margin
        if height != width or side < GRID_PX:
            raise ValueError(
                f"image of {width - 2 * margin}x{side} px must be square and at least {GRID_PX} px: crop to the face."
            )
        if margin not in (0, self.config.margin(side)):
            raise ValueError(f"margin={margin} must be 0 or {self.config.margin(side)} px for a portrait of {side} px.")
        portrait = image[:, margin : margin + side, margin : margin + side].to(self.device)
        with self._precision():
            features = self.reference(resized(portrait))
        known = image if margin else with_margin(image, self.config.margin(side))
        latent = torch.zeros(count, 1, WIDTH, 2, 2, device=self.device)
        fade = fade_of(count, self.device, pasted=pasted)
        return Reference(latent, (*_parts(features), known.to(self.device), fade))

    @torch.no_grad()
    def encode(self, pixel_frames: UInt8[Tensor, "b t s s 3"], reference: Reference) -> Float[Tensor, "b f 57 2 2"]:
        """Latents of pictures that are framed as the reference is, in the reference's size or another."""
        known = Features(*reference.features[:NUM_FEATURES])
        return to_latents(torch.stack([self._codes(*clip) for clip in zip(pixel_frames, known.image, strict=True)]))

    @torch.no_grad()
    def begin(self, reference: Reference) -> Memory:
        """Takes each portrait apart, into what moves and what stays."""
        *parts, image, fade = reference.features
        with self._precision():
            around = self.reference(resized(image))
        shares = (layers(features).share for features in (Features(*parts), around))
        canvases = [make_canvas(*person) for person in zip(image, *shares, fade, strict=True)]
        stacked = [torch.stack(part) for part in zip(*map(_parts, canvases), strict=True)]
        return Memory(constant=(*parts, *stacked), moving=(image.new_zeros(len(image), 5, dtype=self.dtype),))

    @torch.no_grad()
    def decode(
        self, latents: Float[Tensor, "b f 57 2 2"], memory: Memory
    ) -> tuple[UInt8[Tensor, "b 4*f s s 3"], Memory]:
        shown, last = steadied(from_latents(latents.to(self.taper)), *memory.moving)
        clips = []
        for row, codes in enumerate(shown):
            features, canvas = person(memory, row)
            clips.append(torch.cat([draw(canvas, self.change(code, features)) for code in codes.split(FRAMES)]))
        return torch.stack(clips), Memory(memory.constant, (last,))

    def from_latent(self, latent: Float[Tensor, "b 1 57 2 2"]) -> Reference:
        raise ValueError("the motion autoencoder must be given the reference image: its latent is zero for all images.")

    @torch.no_grad()
    def change(self, code: Float[Tensor, "n 57"], features: Features) -> Change:
        """What the decoder says of pictures of one person; of a stream, of one latent frame."""
        features = features.repeated(len(code))
        with self._precision():
            coarse = self.decoder.coarse(code, features)
            residual, share = fine_at_working_size(self.decoder, code, coarse, features)
        return Change(coarse.flow, residual * self.taper, share * self.taper)

    def _codes(self, frames: UInt8[Tensor, "t s s 3"], target: Float[Tensor, "3 256 256"]) -> Float[Tensor, "t 57"]:
        with self._precision():
            codes = [
                self.encoder(resized(part.to(self.device)), target.expand(len(part), -1, -1, -1))
                for part in frames.split(8)
            ]
        return torch.cat(codes)

    def _precision(self) -> torch.autocast:
        return torch.autocast(self.device.type, torch.bfloat16, enabled=self.bf16)


def person(memory: Memory, row: int) -> tuple[Features, Canvas]:
    """What is known of one of the references."""
    known, drawn = memory.constant[:NUM_FEATURES], memory.constant[NUM_FEATURES:]
    return Features(*(part[row : row + 1] for part in known)), Canvas(*(part[row] for part in drawn))


def _parts(of: Features | Canvas) -> tuple[Tensor, ...]:
    return tuple(getattr(of, field.name) for field in fields(of))


GRID_PX = 64


def with_margin(images: UInt8[Tensor, "b s s 3"], margin: int) -> UInt8[Tensor, "b w w 3"]:
    """Continued by as many px on each side."""
    whole = [continued(image, margin, margin, margin, margin) for image in images.cpu().numpy()]
    return torch.from_numpy(np.stack(whole))


def resized(images: UInt8[Tensor, "n s s 3"]) -> Float[Tensor, "n 3 256 256"]:
    """At the working size, in [-1, 1]."""
    pictures = images.movedim(-1, 1).float() / 127.5 - 1
    if pictures.shape[-1] >= SIDE:
        return shrink(pictures, (SIDE, SIDE))
    return F.interpolate(pictures, size=(SIDE, SIDE), mode="bicubic", align_corners=False).clamp(-1, 1)


def load_motion(folder: Path) -> MotionAutoencoder:
    """The autoencoder that stage=motion wrote.

    Raises:
        FileNotFoundError: there is none.
        ValueError: it is of another kind or shape.
    """
    network = MotionNetwork(MotionConfig.from_json(read_header(folder, kind=KIND).config))
    load_weights(folder, network)
    return MotionAutoencoder(network).eval().requires_grad_(False)
