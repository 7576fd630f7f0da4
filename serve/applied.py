"""The answer to a change of a stream."""

import math
from dataclasses import dataclass

from gwm.contract import Contract


@dataclass(frozen=True)
class Applied:
    """The chunk and media time from which a change holds."""

    chunk: int  # the first that is generated under it, counted from the start of the stream
    media_s: float  # when that chunk begins


def applied_at(contract: Contract, at_s: float) -> Applied:
    """The first chunk that does not begin before `at_s`: a change never comes early."""
    chunk = math.ceil(at_s * contract.fps / contract.chunk_pixel_frames - 1e-6)
    return Applied(chunk, chunk * contract.chunk_ms / 1000)
