"""Decode one chunk while the next is denoised, where that is faster; everything is then heard and seen one chunk
later."""

from collections import deque
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, UInt8
from torch import Tensor

from serve.acts import Applied
from serve.engine import Engine
from serve.pipeline import Frames, Lanes, Pipeline

ALONE_SHARE = 0.8  # of its time that a chunk may take by itself: from there on it holds its pace only in quiet moments
GAIN = 0.9  # overlapped chunks must take less than this share of the time, or the delay is for nothing


class OverlappedEngine:
    """Steps an engine one chunk late: `step` begins a chunk and returns the frames of the one before.

    The frames, and their order, are those of the engine alone, also across changes and rewinds.
    """

    def __init__(self, engine: Engine, lanes: Lanes) -> None:
        self.pipeline = Pipeline(engine, lanes)
        self._begun: deque[Future[Frames]] = deque()

    def start(self, portrait: UInt8[np.ndarray, "h w 3"]) -> None:
        """As `Engine.start`."""
        self._begun.clear()
        self.pipeline.start(portrait)

    def step(self) -> Frames | None:
        """Begin the chunk that is ready, and wait for the frames of the one before; None behind the first.

        Raises:
            RuntimeError: the engine is not `ready`, or could not make these frames.
        """
        self._begun.append(self.pipeline.step())
        return self._begun.popleft().result() if len(self._begun) > 1 else None

    def set_prompt(self, text: Float[Tensor, "1 s t"]) -> Applied:
        """As `Engine.set_prompt`, for the chunk that is begun next."""
        return self.pipeline.set_prompt(text)

    def keyframe(self, picture: UInt8[np.ndarray, "h w 3"], *, at_s: float) -> Applied:
        """As `Engine.keyframe`."""
        return self.pipeline.keyframe(picture, at_s=at_s)

    def rewind(self, chunks: int, *, keep_sound: bool) -> Applied:
        """As `Engine.rewind`; the frames that wait are still returned first, as the engine alone would have."""
        return self.pipeline.rewind(chunks, keep_sound=keep_sound)

    def drain(self) -> None:
        """Wait until nothing is under way."""
        self.pipeline.drain()


@dataclass(frozen=True, slots=True, kw_only=True)
class Measured:
    """How long a chunk takes on this machine, and whether chunks overlap."""

    overlap: bool
    chunk_ms: float  # of the chunk itself, as it is seen
    sequential_ms: float | None  # None: not measured, as the mode is given
    overlapped_ms: float | None

    @property
    def step_ms(self) -> float:
        """From one chunk to the next, as they are made."""
        found = self.overlapped_ms if self.overlap else self.sequential_ms
        assert found is not None, "the chosen mode is measured"
        return found

    @property
    def reason(self) -> str:
        """For the log."""
        if self.sequential_ms is None or (self.overlapped_ms is None and not self._fits(self.sequential_ms)):
            return f"as configured; a chunk of {self.chunk_ms:.0f} ms takes {self.step_ms:.0f} ms"
        one_by_one = f"a chunk of {self.chunk_ms:.0f} ms takes {self.sequential_ms:.0f} ms by itself"
        if self.overlapped_ms is None:
            return f"{one_by_one}, overlap would show it {self.chunk_ms:.0f} ms later"
        return f"{one_by_one} and {self.overlapped_ms:.0f} ms overlapped"

    def _fits(self, ms: float) -> bool:
        return ms <= ALONE_SHARE * self.chunk_ms


def measured(mode: str, *, chunk_ms: float, time: Callable[[bool], float]) -> Measured:
    """Choose by `mode`, and measure what was chosen.

    auto: overlap where a chunk by itself takes more than its share of the time, and less when it overlaps. on, off: so.

    Args:
        time: milliseconds from chunk to chunk, with overlap (True) or without.
    """
    if mode == "on":
        return Measured(overlap=True, chunk_ms=chunk_ms, sequential_ms=None, overlapped_ms=time(True))
    alone = time(False)
    if mode == "off" or alone <= ALONE_SHARE * chunk_ms:
        return Measured(overlap=False, chunk_ms=chunk_ms, sequential_ms=alone, overlapped_ms=None)
    both = time(True)
    return Measured(overlap=both < GAIN * alone, chunk_ms=chunk_ms, sequential_ms=alone, overlapped_ms=both)
