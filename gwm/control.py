"""Numbers that a caller may set by name while a stream is generated."""

from dataclasses import dataclass
from typing import Literal

# discrete: 0 or 1, as a key; continuous: any number in the limits; pointer: one of two neighbours, x and y of a place
# in the picture, from -1 at the left and the top to 1.
Kind = Literal["continuous", "discrete", "pointer"]
LIMIT = 10.0  # numbers of training are of the order of 1; larger ones would leave everything it has seen


@dataclass(frozen=True, slots=True)
class Control:
    """One number of each pixel frame."""

    name: str
    minimum: float = -LIMIT
    maximum: float = LIMIT
    default: float = 0.0  # where a caller sets others of its condition and not this
    kind: Kind = "continuous"
