"""What answers a change of a stream."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Applied:
    """From when on a change holds."""

    chunk: int  # the first that is generated under it, counted from the start of the stream
    media_s: float  # when that chunk begins
