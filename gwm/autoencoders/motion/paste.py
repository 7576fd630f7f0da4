"""The face's square of a larger picture, and its place there: only the square moves, and its border does not."""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, UInt8

from gwm.media.framing import part_of


@dataclass(frozen=True)
class Square:
    """In px of the picture; it may reach over the picture's edge, and the picture is continued there."""

    left: int
    top: int
    side: int

    def cut(self, picture: UInt8[np.ndarray, "h w 3"]) -> UInt8[np.ndarray, "s s 3"]:
        return part_of(picture, self.top, self.left, self.side, self.side)

    def with_margin(self, margin: int) -> "Square":
        """As many px larger on each side."""
        return Square(self.left - margin, self.top - margin, self.side + 2 * margin)

    def paste(self, square: UInt8[np.ndarray, "s s 3"], picture: UInt8[np.ndarray, "h w 3"]) -> np.ndarray:
        """A copy of the picture with the square in its place, as far as it lies inside."""
        out = picture.copy()
        top, left = max(self.top, 0), max(self.left, 0)
        inside = square[top - self.top :, left - self.left :]
        target = out[top : self.top + self.side, left : self.left + self.side]
        target[:] = inside[: target.shape[0], : target.shape[1]]
        return out


def square_around(middle: Float[np.ndarray, "2"], side: float) -> Square:
    """From middle (x, y) and side of `gwm.media.face.face_square`."""
    left, top = np.round(middle - side / 2).astype(int)
    return Square(int(left), int(top), max(1, round(side)))
