"""The part of every picture that the model sees, in the model's size; and back."""

from dataclasses import dataclass

import cv2
import numpy as np
from jaxtyping import Bool, UInt8

from gwm.resolution import Resolution
from serve.editing.request import EditRequest

FEATHER_PX = 4  # over which what is drawn anew fades in, inside of its mask


@dataclass(frozen=True)
class View:
    """A rectangle of the canvas in whole px, and the size in which the model sees it."""

    left: int
    top: int
    width: int
    height: int
    seen: Resolution

    def __str__(self) -> str:
        return f"view=[{self.left},{self.top},{self.width},{self.height}] in {self.seen} px"

    @property
    def slices(self) -> tuple[slice, slice]:
        return slice(self.top, self.top + self.height), slice(self.left, self.left + self.width)

    def check(self, drawn: Bool[np.ndarray, "h w"]) -> None:
        """Raises:
        ValueError: the mask reaches beyond the view.
        """
        rest = drawn.copy()
        rest[self.slices] = False
        if rest.any():
            y, x = (int(found[0]) for found in np.nonzero(rest))
            raise ValueError(
                f"the mask has ({x}, {y}), outside of what the model sees, {self}. Give a view= that holds all "
                "of the mask, as [x, y, width, height], or a smaller mask."
            )

    def picture(self, rgb: UInt8[np.ndarray, "h w 3"]) -> UInt8[np.ndarray, "i j 3"]:
        return self._seen(rgb[self.slices])

    def drawn(self, drawn: Bool[np.ndarray, "h w"]) -> Bool[np.ndarray, "i j"]:
        """Px of the model's size that hold any of the mask."""
        part = drawn[self.slices].astype(np.float32)
        return self._seen(part) > 0 if self.seen.height <= self.height else self._seen(part) >= 0.5

    def put(
        self, rgb: UInt8[np.ndarray, "h w 3"], made: UInt8[np.ndarray, "i j 3"], drawn: Bool[np.ndarray, "h w"]
    ) -> UInt8[np.ndarray, "h w 3"]:
        """The picture with what was made where it is `drawn`; the same numbers everywhere else."""
        share = feathered(drawn)[self.slices][..., None]
        size = self.width, self.height
        larger = np.asarray(cv2.resize(made, size, interpolation=cv2.INTER_CUBIC)).astype(np.float32)
        out = rgb.copy()
        part = out[self.slices].astype(np.float32)
        out[self.slices] = np.rint(part + share * (larger - part)).clip(0, 255).astype(np.uint8)
        return out

    def _seen(self, part: np.ndarray) -> np.ndarray:
        smaller = self.seen.height < self.height
        how = cv2.INTER_AREA if smaller else cv2.INTER_CUBIC if part.ndim == 3 else cv2.INTER_LINEAR
        size = self.seen.width, self.seen.height
        return np.asarray(cv2.resize(np.ascontiguousarray(part), size, interpolation=how))


def feathered(drawn: Bool[np.ndarray, "h w"]) -> np.ndarray:
    """How much of what was made is shown: 0 outside of the mask, also in px that share their colours with one outside
    of it (pairs of rows and columns); from there it grows to 1 over FEATHER_PX."""
    height, width = drawn.shape
    pairs = np.pad(drawn, ((0, height % 2), (0, width % 2)), mode="edge")
    whole = pairs.reshape(pairs.shape[0] // 2, 2, pairs.shape[1] // 2, 2).all(axis=(1, 3))
    inner = whole.repeat(2, axis=0).repeat(2, axis=1)[:height, :width]
    if inner.all():
        return np.ones(drawn.shape, np.float32)
    inside = cv2.distanceTransform(inner.astype(np.uint8), cv2.DIST_L2, 3)
    return np.asarray(inside / FEATHER_PX).clip(0, 1).astype(np.float32)


def view_of(request: EditRequest, size: tuple[int, int], seen: Resolution) -> View:
    """What was asked for; else the largest part around the middle that has the aspect of what the model sees.

    Raises:
        ValueError: the view does not lie in the picture.
    """
    height, width = size
    if request.view is not None:
        left, top, across, down = request.view
        if left + across > width or top + down > height:
            raise ValueError(
                f"view={list(request.view)} must lie in the picture of {width} px across, {height} px down."
            )
        return View(left, top, across, down, seen)
    scale = min(height / seen.height, width / seen.width)
    down, across = min(height, round(scale * seen.height)), min(width, round(scale * seen.width))
    return View((width - across) // 2, (height - down) // 2, across, down, seen)
