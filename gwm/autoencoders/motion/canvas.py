"""A portrait of any size, moved by what the decoder says of 64x64 cells and 256 px: OpenCV on CPUs, tensors elsewhere.

Both give the portrait itself, to the bit, where nothing moves.
"""

from dataclasses import dataclass

import cv2
import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float, UInt8
from torch import Tensor

from gwm.autoencoders.motion.basis import GRID
from gwm.autoencoders.motion.warp import REDRAWN, background, low_pass, places, redraw, sample
from gwm.media.pixels import as_bytes

EDGE = 4  # cells over which all motion fades out at the border of a picture that is pasted back


@dataclass(frozen=True)
class Canvas:
    """One person's portrait, taken apart once a session; nothing in it changes."""

    image: UInt8[Tensor, "s s 3"]
    share: UInt8[Tensor, "s s"]  # of the moving layer, in 255ths
    behind: UInt8[Tensor, "s s 3"]  # the background, also where the person hides it
    fade: Float[Tensor, "64 64"]  # of all motion: 1, or less towards the border of a picture that is pasted back

    @property
    def side(self) -> int:
        return self.image.shape[0]


@dataclass(frozen=True)
class Change:
    """What the decoder says of pictures."""

    flow: Float[Tensor, "n 2 64 64"]  # in cells
    residual: Float[Tensor, "n 3 256 256"]  # in [-2, 2]
    share: Float[Tensor, "n 1 256 256"]  # of redrawing


def fade_of(count: int, device: torch.device, *, pasted: bool) -> Float[Tensor, "n 64 64"]:
    """pasted: the picture is part of a larger one, whose pixels around it stay."""
    cell = torch.arange(GRID, device=device)
    inwards = torch.minimum(cell, GRID - 1 - cell) - 1  # two cells of exact zeros: cubic interpolation sees both
    ramp = (inwards / EDGE).clamp(0, 1) if pasted else torch.ones(GRID, device=device)
    return (ramp[:, None] * ramp[None]).expand(count, -1, -1)


def make_canvas(image: UInt8[Tensor, "s s 3"], share: Float[Tensor, "1 h w"], fade: Float[Tensor, "64 64"]) -> Canvas:
    """`share` is the moving layer's at any size."""
    side = image.shape[0]
    large = F.interpolate(share[None].float(), size=(side, side), mode="bilinear", align_corners=False).clamp(0, 1)
    levels = (large[0, 0] * 255).round()
    picture = image.permute(2, 0, 1)[None].float()
    behind = background(picture, levels[None, None] / 255)[0].round().to(torch.uint8)
    return Canvas(image, levels.to(torch.uint8), behind.permute(1, 2, 0).contiguous(), fade)


def draw(canvas: Canvas, change: Change) -> UInt8[Tensor, "n s s 3"]:
    """Pictures of the size of the canvas."""
    fade = F.interpolate(canvas.fade[None, None], size=change.share.shape[-2:], mode="bilinear", align_corners=False)
    faded = Change(change.flow * canvas.fade, change.residual * fade, change.share * fade)
    return draw_with_opencv(canvas, faded) if canvas.image.device.type == "cpu" else draw_with_tensors(canvas, faded)


def draw_with_tensors(canvas: Canvas, change: Change) -> UInt8[Tensor, "n s s 3"]:
    """By `grid_sample`; the reference of `draw_with_opencv`."""
    n, side = len(change.flow), canvas.side
    image, behind = (x.permute(2, 0, 1)[None].float() / 127.5 - 1 for x in (canvas.image, canvas.behind))
    both = torch.cat([image, canvas.share[None, None].float() / 255], dim=1).expand(n, -1, -1, -1)
    moved = sample(both, places(change.flow, side))
    picture = torch.lerp(behind, moved[:, :3], moved[:, 3:])
    residual, share = (
        F.interpolate(x, size=(side, side), mode="bilinear", align_corners=False)
        for x in (change.residual, change.share)
    )
    return as_bytes(redraw(picture, residual, share, low_pass(picture, side / REDRAWN)))


def draw_with_opencv(canvas: Canvas, change: Change) -> UInt8[Tensor, "n s s 3"]:
    """Several times as fast as tensors on a CPU; differs by the rounding of places to 1/32 px."""
    side = canvas.side
    x = np.arange(side, dtype=np.float32)
    own = np.stack(np.broadcast_arrays(x[None, :], x[:, None]), axis=-1)
    picture = np.dstack([canvas.image.numpy(), canvas.share.numpy()])
    parts = (change.flow * (side / GRID), change.residual * 127.5, change.share)
    fields = [np.ascontiguousarray(part.permute(0, 2, 3, 1).float().numpy()) for part in parts]
    frames = [_picture(picture, canvas.behind.numpy(), own, *field) for field in zip(*fields, strict=True)]
    return torch.from_numpy(np.stack(frames))


def _picture(
    picture: UInt8[np.ndarray, "s s 4"],
    behind: UInt8[np.ndarray, "s s 3"],
    own: Float[np.ndarray, "s s 2"],
    flow: Float[np.ndarray, "64 64 2"],
    residual: Float[np.ndarray, "256 256 3"],
    share: Float[np.ndarray, "256 256 1"],
) -> UInt8[np.ndarray, "s s 3"]:
    size = own.shape[:2]
    at = own + cv2.resize(flow, size, interpolation=cv2.INTER_CUBIC)
    moved = cv2.remap(picture, at, None, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)  # pyright: ignore[reportCallIssue, reportArgumentType]
    out = _mixed(behind, cv2.cvtColor(moved, cv2.COLOR_BGRA2BGR), moved[..., 3] / np.float32(255))
    low = cv2.resize(cv2.resize(out, (REDRAWN, REDRAWN), interpolation=cv2.INTER_AREA), size)
    out = _mixed(out, low, cv2.resize(share, size))
    return cv2.add(out, cv2.resize(residual, size), dtype=cv2.CV_8U)


def _mixed(under: np.ndarray, over: np.ndarray, share: Float[np.ndarray, "s s"]) -> np.ndarray:
    return cv2.blendLinear(over, under, share, 1 - share)
