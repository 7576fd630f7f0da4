"""What a viewer would notice of a stream: chunks that came too late."""

from collections.abc import Sequence
from dataclasses import dataclass

# The picture before stays for a frame more, and the player catches up. Browsers are less strict: a freeze begins 150 ms
# after that (freezeCount of W3C's webrtc-stats).
NOTICED_S = 1 / 24


@dataclass(frozen=True, kw_only=True)
class Watched:
    """A stream as a player with a start buffer showed it."""

    num_stalls: int
    stalled_s: float
    attainment: float  # share of chunks that were there when a player that never stalled would have needed them


def watch(arrival_s: Sequence[float], *, period_s: float, buffer_chunks: int = 1) -> Watched:
    """Play chunks of `period_s` that arrive at `arrival_s`, beginning when `buffer_chunks` of them are there.

    A chunk that is late by more than a frame, which is `NOTICED_S`, stops the player until it comes; what follows
    shifts. `attainment` counts against the clock that started with the first picture and did not shift.
    """
    start = arrival_s[min(buffer_chunks, len(arrival_s)) - 1]
    num_stalls, stalled, on_time, due = 0, 0.0, 0, start
    for number, arrival in enumerate(arrival_s):
        on_time += arrival <= start + number * period_s + NOTICED_S
        if arrival > due + NOTICED_S:
            num_stalls += 1
            stalled += arrival - due
            due = arrival
        due += period_s
    return Watched(num_stalls=num_stalls, stalled_s=stalled, attainment=on_time / len(arrival_s))


def smallest_buffer(arrival_s: Sequence[float], *, period_s: float) -> int:
    """Chunks that must be there before playing starts so that it never stalls."""
    for buffer_chunks in range(1, len(arrival_s) + 1):
        if not watch(arrival_s, period_s=period_s, buffer_chunks=buffer_chunks).num_stalls:
            return buffer_chunks
    return len(arrival_s)
