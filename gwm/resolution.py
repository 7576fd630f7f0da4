"""Height and width of pictures: one reader of what people type and of what JSON files hold."""

import itertools
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import UInt8

TYPED = re.compile(r"([0-9]+)(?:x([0-9]+))?")


@dataclass(frozen=True, slots=True)
class Resolution:
    """Size of every picture of a model or a data set, in pixels."""

    height: int
    width: int

    def __post_init__(self) -> None:
        if min(self.height, self.width) < 1:
            raise ValueError(f"resolution={self} must have a height and a width of at least 1 px.")

    @classmethod
    def parse(cls, value: Any) -> "Resolution":
        """`480x832` is height x width; one number, as 128, is a square; JSON files have an object with both.

        Raises:
            ValueError: it is none of these.
        """
        if isinstance(value, Mapping) and set(value) == {"height", "width"}:
            return cls(**value)
        typed = TYPED.fullmatch(str(value))
        if typed is None:
            raise ValueError(
                f"resolution={value} must be height x width in pixels, as 480x832, or one number for a square, as 128."
            )
        return cls(int(typed[1]), int(typed[2] or typed[1]))

    def __str__(self) -> str:
        return f"{self.height}x{self.width}"

    @property
    def shape(self) -> tuple[int, int]:
        """Rows and columns of pixels."""
        return self.height, self.width

    @property
    def is_square(self) -> bool:
        return self.height == self.width

    def cells(self, side: int) -> tuple[int, int]:
        """Rows and columns of cells of `side` x `side` pixels."""
        return self.height // side, self.width // side

    def black(self) -> UInt8[np.ndarray, "h w 3"]:
        return np.zeros((*self.shape, 3), np.uint8)

    def check_multiple(self, multiple: int, *, of: str) -> None:
        """Refuse a resolution that is no multiple of `multiple` along both sides.

        Raises:
            ValueError: height or width is no multiple; the message has the nearest sizes that are.
        """
        if self.height % multiple or self.width % multiple:
            nearest = " or ".join(map(str, self._nearest(multiple)))
            raise ValueError(
                f"resolution={self} must have height and width that are multiples of {of} = {multiple}. Take {nearest}."
            )

    def _nearest(self, multiple: int) -> list["Resolution"]:
        """Sizes whose height and width are the next multiples below and above; squares for a square."""
        rows, columns = ([k * multiple for k in sorted({px // multiple, -(-px // multiple)}) if k] for px in self.shape)
        pairs = zip(rows, columns) if self.is_square else itertools.product(rows, columns)
        return [Resolution(*pair) for pair in pairs]
