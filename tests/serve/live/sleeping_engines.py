"""Engines whose chunks take their time and need none of the processor: in a process, or on a turned clock."""

import asyncio
import contextlib
import time
from collections import Counter
from collections.abc import Iterator
from multiprocessing.connection import Connection

import numpy as np

from serve.live.avatar.engines import EngineOptions
from serve.live.avatar.overlap import Measured
from serve.live.avatar.performer import Performer, StreamTiming

CHUNK_S, STEP_S, PACKET = 1 / 6, 0.015, 480
TIMING = StreamTiming(
    chunk_samples=4_000, lookahead_samples=0, frame_samples=1_000, sample_rate=24_000, lead_samples=7_200
)
FRAMES = np.zeros((4, 2, 2, 3), np.uint8)


def serve_sleeping(connection: Connection, options: EngineOptions) -> None:
    """As `serve_engines`: a chunk takes `STEP_S`. A session that was not started is refused."""
    started, answer = set[str](), None
    connection.send((None, None))
    with contextlib.suppress(EOFError, BrokenPipeError):
        while True:
            name, arguments = connection.recv()
            error = None
            match name:
                case "measure":
                    answer = Measured(
                        overlap=False, chunk_ms=1000 * CHUNK_S, sequential_ms=1000 * STEP_S, overlapped_ms=None
                    )
                case "reserve":
                    answer = arguments[0]
                case "start":
                    started.add(arguments[0])
                case "step" if arguments[0] in started:
                    time.sleep(STEP_S)
                    answer = FRAMES
                case "step":
                    error = f"KeyError: {arguments[0]}"
            connection.send((answer, error))


class Viewer:
    """A performer, and a player that plays it in real time of the loop from its first chunk on."""

    def __init__(self, face: object) -> None:
        self.outcomes = Counter[str]()
        self.performer = Performer(face, TIMING, on_chunk=lambda outcome: self.outcomes.update([outcome]))

    @property
    def in_time(self) -> float:
        """Share of the chunks that had to be there."""
        return self.outcomes["in_time"] / max(1, self.outcomes.total())

    async def watch(self, seconds: float, *, after_s: float = 0.0) -> None:
        await asyncio.sleep(after_s)
        performing = asyncio.create_task(self.performer.run())
        await self.performer.playout.wait_until_ready(TIMING.chunk_samples)
        loop = asyncio.get_running_loop()
        try:
            for due_s in packets(loop.time(), seconds):
                self.performer.playout.advance(PACKET)
                await asyncio.sleep(due_s - loop.time())
        finally:
            performing.cancel()


def packets(begin_s: float, seconds: float) -> Iterator[float]:
    """When each packet is over."""
    packet_s = PACKET / TIMING.sample_rate
    for number in range(round(seconds / packet_s)):
        yield begin_s + (number + 1) * packet_s
