"""Which part of a picture becomes the frame, and that part at the frame's resolution."""

from dataclasses import dataclass

import cv2
import numpy as np
from jaxtyping import UInt8
from PIL import Image

from gwm.resolution import Resolution


@dataclass(frozen=True, slots=True)
class Box:
    """Part of an upright picture, in its px."""

    x: float  # of the middle
    y: float
    width: float
    height: float
    angle: float = 0.0  # radians, clockwise, by which what is upright in the frame is turned in the picture


def framed_face(picture: tuple[int, int], middle: tuple[float, float], size: float, resolution: Resolution) -> Box:
    """The part of a picture of (height, width) px that shows a face, whose square has `size` px around `middle` (x, y).

    Square frames show that square. Others show the largest part of their aspect that lies inside the picture, with the
    face in the middle as far as the picture goes.
    """
    if resolution.is_square:
        return Box(*middle, size, size)
    box = framed_centre(picture, resolution)
    (x, y), (height, width) = middle, picture
    return Box(
        min(max(x, box.width / 2), width - box.width / 2),
        min(max(y, box.height / 2), height - box.height / 2),
        box.width,
        box.height,
    )


def framed_centre(picture: tuple[int, int], resolution: Resolution) -> Box:
    """The largest part of the frame's aspect around the middle of a picture of (height, width) px."""
    height, width = picture
    if width * resolution.height <= height * resolution.width:
        return Box(width / 2, height / 2, float(width), width * resolution.height / resolution.width)
    return Box(width / 2, height / 2, height * resolution.width / resolution.height, float(height))


def cut(pixels: UInt8[np.ndarray, "h w 3"], box: Box, resolution: Resolution) -> UInt8[np.ndarray, "h2 w2 3"]:
    """The box at another resolution; edges are repeated outside the picture."""
    height, width, _ = pixels.shape
    left, top = round(box.x - box.width / 2), round(box.y - box.height / 2)
    rows = np.arange(top, top + max(1, round(box.height))).clip(0, height - 1)
    columns = np.arange(left, left + max(1, round(box.width))).clip(0, width - 1)
    part = Image.fromarray(pixels[rows[:, None], columns])
    return np.asarray(part.resize((resolution.width, resolution.height), Image.Resampling.LANCZOS))


def cut_exactly(pixels: UInt8[np.ndarray, "h w 3"], box: Box, resolution: Resolution) -> UInt8[np.ndarray, "h2 w2 3"]:
    """The box, turned upright, between pixels too, so that a slow box does not shake; edges as in `cut`."""
    shrink = max(1.0, box.width / resolution.width)
    if shrink > 1:  # a warp alone would skip pixels
        size = max(1, round(pixels.shape[1] / shrink)), max(1, round(pixels.shape[0] / shrink))
        across, down = size[0] / pixels.shape[1], size[1] / pixels.shape[0]
        pixels = cv2.resize(pixels, size, interpolation=cv2.INTER_AREA)  # type: ignore[assignment]
    else:
        across = down = 1.0
    right = np.array([np.cos(box.angle), np.sin(box.angle)]) * box.width / resolution.width
    below = np.array([-np.sin(box.angle), np.cos(box.angle)]) * box.height / resolution.height
    corner = np.array([box.x, box.y]) - (resolution.width - 1) / 2 * right - (resolution.height - 1) / 2 * below
    matrix = np.stack([right, below, corner], axis=1) * [[across], [down]]  # of the middles of pixels,
    matrix[:, 2] -= 0.5  # which lie at whole numbers
    how = cv2.INTER_CUBIC | cv2.WARP_INVERSE_MAP
    size = resolution.width, resolution.height
    return np.asarray(cv2.warpAffine(pixels, matrix, size, flags=how, borderMode=cv2.BORDER_REPLICATE))
