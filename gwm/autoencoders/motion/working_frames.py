"""Pictures of a batch at the working size, with gradients: what training looks at. `canvas` draws at any other size."""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor

from gwm.autoencoders.motion.basis import GRID
from gwm.autoencoders.motion.code import MotionConfig
from gwm.autoencoders.motion.network import SIDE, Coarse, Features, MotionDecoder
from gwm.autoencoders.motion.warp import (
    REDRAWN,
    Window,
    background,
    layer_share,
    layered,
    low_pass,
    places_in,
    redraw,
    sample,
)

TAPER = 3  # cells over which a residual fades in at the border of its part of the picture


@dataclass(frozen=True)
class Layers:
    """A reference at the working size, taken apart."""

    share: Float[Tensor, "n 1 256 256"]
    behind: Float[Tensor, "n 3 256 256"]

    def of(self, rows: Int[Tensor, " m"]) -> "Layers":
        """One row for each picture, given whose it is."""
        return Layers(self.share[rows], self.behind[rows])


def layers(features: Features) -> Layers:
    """The moving layer's share and the background behind it."""
    share = F.interpolate(layer_share(features.person), scale_factor=2, mode="bilinear", align_corners=False)
    return Layers(share, background(features.image, share.detach()))


def taper(config: MotionConfig) -> Float[Tensor, "1 1 256 256"]:
    """1 where a residual is made, falling to 0 at the sides and the top of that part; it ends with the picture."""
    cell = torch.arange(GRID, dtype=torch.float32)
    down = ((cell - config.top + 0.5) / TAPER).clamp(0, 1)
    across = ((torch.minimum(cell, GRID - 1 - cell) - config.left + 0.5) / TAPER).clamp(0, 1)
    small = (down[:, None] * across[None, :])[None, None]
    return F.interpolate(small, scale_factor=SIDE // GRID, mode="bilinear", align_corners=False)


def animated(
    decoder: MotionDecoder,
    code: Float[Tensor, "n 57"],
    coarse: Coarse,
    features: Features,
    parts: Layers,
    window: Window,
) -> tuple[Float[Tensor, "n 3 h w"], Float[Tensor, "n 3 h w"], Float[Tensor, "n 1 h w"]]:
    """A window of each picture at the working size: what is warped alone, the whole, and the share of redrawing."""
    warped = layered(features.image, parts.share, parts.behind, places_in(coarse.flow, SIDE, window), window)
    residual, share = _fine(decoder, code, coarse, features, window)
    fade = window.cut(taper(decoder.config).to(code.device).expand(len(code), -1, -1, -1))
    return warped, redraw(warped, fade * residual, fade * share, low_pass(warped, SIDE / REDRAWN)), fade * share


def fine_at_working_size(
    decoder: MotionDecoder, code: Float[Tensor, "n 57"], coarse: Coarse, features: Features
) -> tuple[Float[Tensor, "n 3 256 256"], Float[Tensor, "n 1 256 256"]]:
    """Residual and share of redrawing; only the part that the configuration names is computed, the rest is 0."""
    top, left = decoder.config.top, decoder.config.left
    corner = torch.tensor([[top, left]]).expand(len(code), 2)
    window = Window(corner, GRID - top, GRID - 2 * left)
    cell = SIDE // GRID
    around = (left * cell, left * cell, top * cell, 0)
    residual, share = _fine(decoder, code, coarse, features, window)
    return F.pad(residual, around), F.pad(share, around)


def _fine(
    decoder: MotionDecoder, code: Float[Tensor, "n 57"], coarse: Coarse, features: Features, window: Window
) -> tuple[Float[Tensor, "n 3 h w"], Float[Tensor, "n 1 h w"]]:
    at, at2, at4 = (places_in(coarse.flow, side, window) for side in (SIDE, SIDE // 2, SIDE // 4))
    cut = Coarse(coarse.flow, window.cut(coarse.content), coarse.gate)
    quarter, half = sample(features.quarter.float(), at4), sample(features.half.float(), at2)
    return decoder.fine(code, cut, quarter, half, sample(features.image, at))
