"""Several live streams on one set of weights: slots allocated once, one chunk at a time by least slack.

For programs with sessions of their own, whose players may buffer differently. The live server (`serve.live`) needs no
scheduler: its sessions have one lead, and ask for a chunk when their player has room for it, so that the first to ask
is the one with least slack. It keeps its engines from session to session as this does.
"""

import time
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, UInt8
from torch import Tensor

from serve.acts import Numbers
from serve.artifact import Artifact
from serve.engine import Engine
from serve.graphs import Capture
from serve.memory import check_memory
from serve.scheduler import CapacityError, Policy, Scheduler, least_slack

MEASURED_CHUNKS = 6  # of which the slowest but one counts, after as many to warm up


@dataclass(frozen=True)
class Chunk:
    """Frames of one session; whoever holds frames of an older generation than the session's drops them."""

    session: str
    generation: int
    number: int  # since the session was opened
    frames: UInt8[np.ndarray, "f h w 3"]


@dataclass(frozen=True)
class Receipt:
    """When a command was accepted and from which chunk on it holds."""

    generation: int
    accepted_s: float
    from_chunk: int


@dataclass(slots=True)
class Session:
    """A stream and its slot."""

    engine: Engine
    generation: int = 0
    number: int = 0  # chunks made
    due_s: float | None = None  # deadline of the next chunk; None before the first


class Sessions:
    """Streams share weights and nothing else: each has a cache, a decoder state and a place in the queue of its own.

    lead_chunks: how long after its sound a chunk may come, in chunks; the buffer of the players.
    capture: as for `Engine`; one graph for each slot, captured here and kept for all sessions of the slot.
    text_tokens, size: as for `Engine`.
    """

    def __init__(
        self,
        artifact: Artifact,
        *,
        slots: int,
        lead_chunks: float = 1.0,
        undo_chunks: int = 0,
        capture: Capture | None = None,
        text_tokens: int = 512,
        size: int | None = None,
        policy: Policy = least_slack,
        max_load: float = 0.9,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """slots: streams at most, each with an engine of its own. lead_chunks: how far ahead a stream may be.

        Raises:
            RuntimeError: the slots do not fit into memory.
        """
        check_memory(artifact, slots=slots, undo_chunks=undo_chunks, text_tokens=text_tokens, size=size)
        self.contract, self.clock = artifact.contract, clock
        self.period_s = artifact.contract.chunk_ms / 1000
        self.lead_s = lead_chunks * self.period_s
        self.free = [
            Engine(artifact, seed=0, capture=capture, undo_chunks=undo_chunks, text_tokens=text_tokens, size=size)
            for _ in range(slots)
        ]
        self.running: dict[str, Session] = {}
        self.scheduler = Scheduler(clock, policy=policy, max_load=max_load)
        self.chunk_s = self._measured()

    def open(
        self,
        name: str,
        portrait: UInt8[np.ndarray, "h w 3"],
        *,
        seed: int,
        text: Float[Tensor, "1 s t"] | None = None,
    ) -> None:
        """Begin a stream.

        Raises:
            ValueError: the name is taken, or portrait or text do not fit.
            CapacityError: there is no slot, or streams would be late.
        """
        if not self.free:
            raise CapacityError(f"{name!r}: all {len(self.running)} slots are taken. Try again when a session ends.")
        self.scheduler.open(name, period_s=self.period_s, cost_s=self.chunk_s)
        engine = self.free.pop()
        engine.seed = seed
        try:
            engine.start(portrait, text)
        except ValueError:
            self.scheduler.close(name)
            self.free.append(engine)
            raise
        self.running[name] = Session(engine)

    def close(self, name: str) -> None:
        """End a stream; its slot is free at once."""
        self.free.append(self.running.pop(name).engine)
        self.scheduler.close(name)

    def push(self, name: str, agent: Float[np.ndarray, " t"], user: Float[np.ndarray, " t_user"]) -> None:
        """As `Engine.push`."""
        self.running[name].engine.push(agent, user)
        self._ready(name)

    def set_prompt(self, name: str, text: Float[Tensor, "1 s t"]) -> Receipt:
        """The session's prompt from the next chunk on; no frame becomes stale.

        Raises:
            ValueError: as `Engine.set_prompt`.
        """
        session = self.running[name]
        applied = session.engine.set_prompt(text)
        return Receipt(session.generation, self.clock(), applied.chunk)

    def act(self, name: str, numbers: Numbers | None) -> Receipt:
        """Numbers of the session's stream from the next chunk on; no frame becomes stale.

        Raises:
            ValueError: as `Engine.act`.
        """
        session = self.running[name]
        applied = session.engine.act(numbers)
        return Receipt(session.generation, self.clock(), applied.chunk)

    def interrupt(self, name: str) -> Receipt:
        """A new generation: frames of the old one are stale wherever they are, and what was to be said is silence."""
        self.running[name].engine.silence()
        return self._new_generation(name)

    def rewind(self, name: str, chunks: int) -> Receipt:
        """Take back the latest chunks, whose frames are stale with it; their sound waits again.

        Raises:
            ValueError: as `Engine.rewind`.
        """
        session = self.running[name]
        session.engine.rewind(chunks)
        session.number -= chunks
        self._ready(name)
        return self._new_generation(name)

    def step(self) -> Chunk | None:
        """Make the chunk that is needed soonest, or none when none can be made."""
        chosen = self.scheduler.choose()
        if chosen is None:
            return None
        session, begin = self.running[chosen.name], self.clock()
        chunk = Chunk(chosen.name, session.generation, session.number, session.engine.step())
        end = self.clock()
        session.number += 1
        # A viewer who had to wait sees everything later from then on.
        session.due_s = max(session.due_s or end, end) + self.period_s
        self.scheduler.done(chosen.name, took_s=end - begin)
        self._ready(chosen.name)
        return chunk

    def _ready(self, name: str) -> None:
        session = self.running[name]
        if session.engine.ready and self.scheduler.streams[name].ready_s is None:
            if session.due_s is None:
                session.due_s = self.clock() + self.lead_s
            self.scheduler.ready(name, deadline_s=session.due_s)

    def _new_generation(self, name: str) -> Receipt:
        session = self.running[name]
        session.generation += 1
        return Receipt(session.generation, self.clock(), session.number)

    def _measured(self) -> float:
        """Seconds of a chunk on this machine now, when nothing else of ours runs."""
        engine, took = self.free[0], []
        engine.start(np.zeros((*engine.size, 3), np.uint8))
        engine.push_silence(2 * MEASURED_CHUNKS * engine.chunk_samples + engine.lookahead_samples)
        for _ in range(2 * MEASURED_CHUNKS):
            begin = time.perf_counter()
            engine.step()
            took.append(time.perf_counter() - begin)
        return sorted(took[MEASURED_CHUNKS:])[-2]
