"""Numbers that a caller may set by name while a stream is generated."""

from dataclasses import dataclass

LIMIT = 10.0  # numbers of training are of the order of 1; larger ones would leave everything it has seen


@dataclass(frozen=True, slots=True)
class Control:
    """One number of each pixel frame."""

    name: str
    minimum: float = -LIMIT
    maximum: float = LIMIT
    default: float = 0.0  # where a caller sets others of its condition and not this
