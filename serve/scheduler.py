"""Scheduling of streams on one device: the stream whose chunk is made next, and how many more fit. Pure Python; time is
passed in. The live server (`serve.live.avatar.call_queue`) and the simulations (`serve.bench`) run this same code.

One device takes one chunk at a time, to its end: at the sizes of video a chunk fills the device, so that batching
streams would only delay all of them.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass


@dataclass(slots=True)
class Stream:
    """The scheduler's record of a stream."""

    name: str
    period_s: float  # playing time of a chunk
    cost_s: float  # time of the device for a chunk, as measured
    opened: int  # order of opening
    deadline_s: float = 0.0  # when the next chunk must be there
    ready_s: float | None = None  # since when the next chunk can be made; None: it cannot
    served: int = -1  # turn at which it was served last
    background: bool = False  # what it waits for has no deadline

    @property
    def load(self) -> float:
        """Share of the device's time."""
        return self.cost_s / self.period_s


Policy = Callable[[Sequence[Stream], float], Stream]  # the ready streams and the time


def least_slack(streams: Sequence[Stream], now_s: float) -> Stream:
    """The stream that must begin soonest if its chunk is to be in time.

    A chunk that is late already lets those go first that can still be in time: under overload one stream stutters
    instead of all.
    """
    slacks = [(stream.deadline_s - now_s - stream.cost_s, stream.opened) for stream in streams]
    return streams[min(range(len(streams)), key=lambda i: (slacks[i][0] < 0, *slacks[i]))]


def first_come(streams: Sequence[Stream], now_s: float) -> Stream:
    return min(streams, key=lambda stream: (stream.ready_s, stream.opened))


def round_robin(streams: Sequence[Stream], now_s: float) -> Stream:
    return min(streams, key=lambda stream: (stream.served, stream.opened))


POLICIES: dict[str, Policy] = {"least_slack": least_slack, "first_come": first_come, "round_robin": round_robin}


class Scheduler:
    """Streams of one device. `ready` when a chunk can be made, `choose`, make it, `done`; again.

    max_load: share of the device's time that may be promised; the rest takes the spread of the measured times.
    """

    def __init__(self, clock: Callable[[], float], *, policy: Policy = least_slack, max_load: float = 0.9) -> None:
        self.clock, self.policy, self.max_load = clock, policy, max_load
        self.streams: dict[str, Stream] = {}
        self.turn = self.num_opened = 0

    @property
    def load(self) -> float:
        """Share of the device's time that is promised."""
        return sum((stream.load for stream in self.streams.values()), 0.0)

    def room(self, *, period_s: float, cost_s: float) -> int:
        """How many more streams fit, whose chunks take `cost_s`; 0 also while those that run take too long already."""
        return max(0, math.floor((self.max_load - self.load) * period_s / cost_s + 1e-9))

    def open(self, name: str, *, period_s: float, cost_s: float) -> Stream:
        """Add a stream whose chunks take `cost_s`, as measured on this device; `room` says before whether it fits.

        Raises:
            ValueError: the name is taken.
        """
        if name in self.streams:
            raise ValueError(f"name={name!r} is a stream already; close it first.")
        stream = Stream(name, period_s, cost_s, self.num_opened)
        self.num_opened += 1
        self.streams[name] = stream
        return stream

    def close(self, name: str) -> None:
        del self.streams[name]

    def ready(self, name: str, *, deadline_s: float, background: bool = False) -> None:
        """The next chunk of a stream can be made and must be there at `deadline_s`; background: in idle moments. Again,
        before it is made: it is wanted at another time."""
        stream = self.streams[name]
        stream.deadline_s, stream.background = deadline_s, background
        stream.ready_s = self.clock() if stream.ready_s is None else stream.ready_s

    def choose(self) -> Stream | None:
        """The stream to make a chunk for, or None when no chunk can be made."""
        waiting = [stream for stream in self.streams.values() if stream.ready_s is not None]
        urgent = [stream for stream in waiting if not stream.background]
        return self.policy(urgent or waiting, self.clock()) if waiting else None

    def done(self, name: str, *, took_s: float) -> None:
        """A chunk was made; the measured cost follows, quickly upwards and slowly downwards."""
        if name not in self.streams:  # closed meanwhile
            return
        stream = self.streams[name]
        self.served(name)
        weight = 0.5 if took_s > stream.cost_s else 0.05
        stream.cost_s += weight * (took_s - stream.cost_s)

    def served(self, name: str) -> None:
        """The stream had its turn, whatever was done in it."""
        stream = self.streams[name]
        stream.ready_s, stream.served = None, self.turn
        self.turn += 1
