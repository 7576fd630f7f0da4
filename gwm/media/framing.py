"""Which part of a picture becomes the frame, and that part at the frame's resolution, also beyond the picture."""

from dataclasses import dataclass, replace

import cv2
import numpy as np
from jaxtyping import UInt8
from PIL import Image

from gwm.resolution import Resolution

SOFT = 0.03  # of a picture's side: deviation of the blur beyond its edges, and the way over which it sets in


@dataclass(frozen=True, slots=True)
class Framing:
    """What is kept of a portrait: the frame that is shown, and what lies around it in the picture."""

    frame: Resolution
    margin: int = 0  # px on each side; a head that moves brings some of them into the frame

    @property
    def kept(self) -> Resolution:
        return Resolution(self.frame.height + 2 * self.margin, self.frame.width + 2 * self.margin)

    def shown(self, portrait: UInt8[np.ndarray, "h w 3"]) -> UInt8[np.ndarray, "h2 w2 3"]:
        """The frame of a portrait of the size that is `kept`."""
        rows, columns = (slice(self.margin, self.margin + side) for side in self.frame.shape)
        return portrait[rows, columns]

    def margin_of(self, portrait: UInt8[np.ndarray, "h w 3"]) -> int:
        """The margin that this portrait has: all of it, or none.

        Raises:
            ValueError: it has neither size.
        """
        size = Resolution(*portrait.shape[:2])
        if size not in (self.frame, self.kept):
            margin = f", or {self.kept} with a margin of {self.margin} px" if self.margin else ""
            raise ValueError(
                f"portrait of {size} px must be {self.frame}{margin}, height x width, as the artifact was trained or "
                "as size= says. Cut it out with gwm.media.portraits.crop_to_face or crop_to_centre."
            )
        return self.margin if size == self.kept else 0

    def around(self, box: "Box") -> "Box":
        """What is kept where the frame shows this box."""
        larger = 1 + 2 * self.margin / self.frame.height
        return replace(box, width=larger * box.width, height=larger * box.height)


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
    """The box at another resolution; outside the picture, the picture is continued."""
    left, top = round(box.x - box.width / 2), round(box.y - box.height / 2)
    part = Image.fromarray(part_of(pixels, top, left, max(1, round(box.height)), max(1, round(box.width))))
    return np.asarray(part.resize((resolution.width, resolution.height), Image.Resampling.LANCZOS))


def part_of(
    pixels: UInt8[np.ndarray, "h w 3"], top: int, left: int, height: int, width: int
) -> UInt8[np.ndarray, "h2 w2 3"]:
    """Rows and columns of a picture; outside of it, it is continued."""
    bottom, right = top + height - pixels.shape[0], left + width - pixels.shape[1]
    inside = pixels[max(0, top) : top + height, max(0, left) : left + width]
    return continued(inside, max(0, -top), max(0, bottom), max(0, -left), max(0, right))


def continued(
    pixels: UInt8[np.ndarray, "h w 3"], top: int, bottom: int, left: int, right: int
) -> UInt8[np.ndarray, "h2 w2 3"]:
    """The picture with px added on its four sides: itself mirrored, the softer the farther from the edge."""
    if not (top or bottom or left or right):
        return pixels
    mirrored = cv2.copyMakeBorder(pixels, top, bottom, left, right, cv2.BORDER_REFLECT_101)
    height, width, _ = mirrored.shape
    deviation = SOFT * max(height, width)
    rows, columns = np.arange(height)[:, None], np.arange(width)[None]
    beyond = np.maximum(
        np.maximum(top - rows, rows - (height - 1 - bottom)), np.maximum(left - columns, columns - (width - 1 - right))
    )
    share = (beyond / deviation).clip(0, 1).astype(np.float32)
    return np.asarray(cv2.blendLinear(_blurred(mirrored, deviation), mirrored, share, 1 - share))


def _blurred(pixels: UInt8[np.ndarray, "h w 3"], deviation: float) -> UInt8[np.ndarray, "h w 3"]:
    """By a Gaussian, of a smaller picture: a wide kernel costs seconds in a large one."""
    height, width, _ = pixels.shape
    less = max(1.0, deviation / 4)
    small = cv2.resize(
        pixels, (max(1, round(width / less)), max(1, round(height / less))), interpolation=cv2.INTER_AREA
    )
    soft = cv2.GaussianBlur(small, (0, 0), max(deviation / less, 0.1))
    return np.asarray(cv2.resize(soft, (width, height), interpolation=cv2.INTER_CUBIC))


def cut_exactly(pixels: UInt8[np.ndarray, "h w 3"], box: Box, resolution: Resolution) -> UInt8[np.ndarray, "h2 w2 3"]:
    """The box, turned upright, between pixels too, so that a slow box does not shake; edges are repeated."""
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
