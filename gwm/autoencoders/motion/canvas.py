"""A portrait of any size, moved by what the decoder says of 64x64 cells and 256 px: OpenCV on CPUs, tensors elsewhere.

A canvas is larger than the portrait by a quarter of its side on every side: what lies there comes into view when the
head moves. Both ways to draw give the portrait itself, to the bit, where nothing moves.
"""

from dataclasses import dataclass
from functools import lru_cache

import cv2
import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float, UInt8
from torch import Tensor

from gwm.autoencoders.motion.basis import GRID
from gwm.autoencoders.motion.code import MARGIN
from gwm.autoencoders.motion.warp import REDRAWN, background, low_pass, own_places, redraw, sample
from gwm.media.pixels import as_bytes

AROUND = GRID // MARGIN  # cells of the flow's grid beyond each side of the portrait
FADE = 12  # cells over which motion sets in from the border of a picture that is pasted back,
SEAM = 4  # and what is drawn anew, from the border of the portrait


@dataclass(frozen=True)
class Canvas:
    """One person's portrait and what lies around it, taken apart once a session; nothing in it changes."""

    image: UInt8[Tensor, "w w 3"]
    share: UInt8[Tensor, "w w"]  # of the moving layer, in 255ths
    behind: UInt8[Tensor, "s s 3"]  # the background of what is drawn, also where the person hides it
    fade: Float[Tensor, "g g"]  # of motion, for each cell of what is drawn

    @property
    def side(self) -> int:
        """Px of what is drawn: the portrait, or all of the image."""
        return self.behind.shape[0]

    @property
    def before(self) -> int:
        """Px of the image on each side of what is drawn."""
        return (self.image.shape[0] - self.side) // 2

    @property
    def edge(self) -> int:
        """Px of what is drawn on each side of the portrait."""
        return (self.side - portrait_side(self.image.shape[0])) // 2


@dataclass(frozen=True)
class Change:
    """What the decoder says of pictures."""

    flow: Float[Tensor, "n 2 g g"]  # in cells; 64 a side of the portrait
    residual: Float[Tensor, "n 3 256 256"]  # in [-2, 2]
    share: Float[Tensor, "n 1 256 256"]  # of redrawing


def portrait_side(side: int) -> int:
    """Px of the portrait in an image that is larger by `MotionConfig.margin`."""
    return side - 2 * (side // (MARGIN + 2))


def fade_of(count: int, device: torch.device, *, pasted: bool) -> Float[Tensor, "n g g"]:
    """pasted: the whole image is drawn, as part of a larger picture whose pixels around it stay."""
    return (_ramp(GRID + 2 * AROUND, FADE) if pasted else torch.ones(GRID, GRID)).to(device).expand(count, -1, -1)


def _ramp(cells: int, over: int) -> Float[Tensor, "g g"]:
    """Rises from 0 in the two outermost cells, of which cubic interpolation sees both, to 1 over that many more."""
    cell = torch.arange(cells)
    rising = ((torch.minimum(cell, cells - 1 - cell) - 1) / over).clamp(0, 1)
    return rising[:, None] * rising[None]


def make_canvas(
    image: UInt8[Tensor, "w w 3"],
    share: Float[Tensor, "1 h h"],
    around: Float[Tensor, "1 h h"],
    fade: Float[Tensor, "g g"],
) -> Canvas:
    """`share` is the moving layer's in the portrait, `around` in all of the image; each of any size."""
    whole = image.shape[0]
    side = portrait_side(whole)
    edge = (whole - side) // 2
    levels, inner, ramp = (
        _enlarged(x, n) for x, n in ((around, whole), (share, side), (_ramp(GRID, SEAM)[None], side))
    )
    inside = levels[edge : edge + side, edge : edge + side]
    inside.copy_(torch.lerp(inside, inner, ramp.to(inner)))
    levels = (levels * 255).round()
    picture = image.permute(2, 0, 1)[None].float()
    behind = background(picture, levels[None, None] / 255)[0].round().to(torch.uint8).permute(1, 2, 0)
    if fade.shape[0] == GRID:
        behind = behind[edge : edge + side, edge : edge + side]
    return Canvas(image, levels.to(torch.uint8), behind.contiguous(), fade)


def _enlarged(share: Float[Tensor, "1 h h"], side: int) -> Float[Tensor, "side side"]:
    large = F.interpolate(share[None].float(), size=(side, side), mode="bilinear", align_corners=False)
    return large[0, 0].clamp(0, 1)


def draw(canvas: Canvas, change: Change) -> UInt8[Tensor, "n s s 3"]:
    """Pictures of the size that the canvas shows."""
    if canvas.edge:
        seam = F.interpolate(_ramp(GRID, SEAM)[None, None], change.share.shape[-2:], mode="bilinear").to(change.share)
        flow = F.pad(change.flow, (AROUND, AROUND, AROUND, AROUND), mode="replicate") * canvas.fade
        change = Change(flow, change.residual * seam, change.share * seam)
    return draw_with_opencv(canvas, change) if canvas.image.device.type == "cpu" else draw_with_tensors(canvas, change)


def draw_with_tensors(canvas: Canvas, change: Change) -> UInt8[Tensor, "n s s 3"]:
    """By `grid_sample`; the reference of `draw_with_opencv`."""
    n, side, edge, before, whole = len(change.flow), canvas.side, canvas.edge, canvas.before, canvas.image.shape[0]
    image, behind = (x.permute(2, 0, 1)[None].float() / 127.5 - 1 for x in (canvas.image, canvas.behind))
    both = torch.cat([image, canvas.share[None, None].float() / 255], dim=1).expand(n, -1, -1, -1)
    flow = F.interpolate(change.flow, size=(side, side), mode="bicubic", align_corners=False)
    own = own_places(whole, image.device)[:, before : before + side, before : before + side]
    at = own + flow * (2 * side / (change.flow.shape[-1] * whole))
    moved = sample(both, at.permute(0, 2, 3, 1))
    picture = torch.lerp(behind, moved[:, :3], moved[:, 3:])
    part = (..., slice(edge, side - edge), slice(edge, side - edge))
    residual, share = (
        F.interpolate(x, size=(side - 2 * edge, side - 2 * edge), mode="bilinear", align_corners=False)
        for x in (change.residual, change.share)
    )
    portrait = picture[part]
    picture[part] = redraw(portrait, residual, share, low_pass(portrait, (side - 2 * edge) / REDRAWN))
    return as_bytes(picture)


def draw_with_opencv(canvas: Canvas, change: Change) -> UInt8[Tensor, "n s s 3"]:
    """Several times as fast as tensors on a CPU; differs by the rounding of places to 1/32 px."""
    side, edge, own = canvas.side, canvas.edge, _own_pixels(canvas.before, canvas.side)
    picture = np.dstack([canvas.image.numpy(), canvas.share.numpy()])
    parts = (change.flow * (side / change.flow.shape[-1]), change.residual * 127.5, change.share)
    frames = []
    for flow, residual, share in zip(*(part.permute(0, 2, 3, 1).float().numpy() for part in parts), strict=True):
        frame = _moved(picture, canvas.behind.numpy(), own, np.ascontiguousarray(flow))
        _redraw(
            frame[edge : side - edge, edge : side - edge], np.ascontiguousarray(residual), np.ascontiguousarray(share)
        )
        frames.append(frame)
    return torch.from_numpy(np.stack(frames))


@lru_cache(maxsize=4)
def _own_pixels(first: int, side: int) -> Float[np.ndarray, "side side 2"]:
    """Where every px of what is drawn lies in the image, x and y; shared, and not to be written to."""
    x = np.arange(first, first + side, dtype=np.float32)
    own = np.stack(np.broadcast_arrays(x[None, :], x[:, None]), axis=-1)
    own.flags.writeable = False
    return own


def _moved(
    picture: UInt8[np.ndarray, "w w 4"],
    behind: UInt8[np.ndarray, "s s 3"],
    own: Float[np.ndarray, "s s 2"],
    flow: Float[np.ndarray, "g g 2"],
) -> UInt8[np.ndarray, "s s 3"]:
    at = own + cv2.resize(flow, own.shape[:2], interpolation=cv2.INTER_CUBIC)
    moved = cv2.remap(picture, at, None, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)  # pyright: ignore[reportCallIssue, reportArgumentType]
    return _mixed(behind, cv2.cvtColor(moved, cv2.COLOR_BGRA2BGR), moved[..., 3] / np.float32(255))


def _redraw(
    portrait: UInt8[np.ndarray, "s s 3"],
    residual: Float[np.ndarray, "256 256 3"],
    share: Float[np.ndarray, "256 256 1"],
) -> None:
    """In place, as `warp.redraw`."""
    size = portrait.shape[:2]
    low = cv2.resize(cv2.resize(portrait, (REDRAWN, REDRAWN), interpolation=cv2.INTER_AREA), size)
    out = _mixed(portrait, low, cv2.resize(share, size))
    portrait[:] = cv2.add(out, cv2.resize(residual, size), dtype=cv2.CV_8U)


def _mixed(under: np.ndarray, over: np.ndarray, share: Float[np.ndarray, "s s"]) -> np.ndarray:
    return cv2.blendLinear(over, under, share, 1 - share)
