"""A face without a network, and a clock that is turned by hand."""

import asyncio
import itertools
from collections.abc import Awaitable, Callable

import numpy as np

from serve.acts import Applied
from serve.bench import turned_clock
from serve.live.avatar.changes import Change, ChangeRefusedError, Rewind
from serve.live.avatar.chunk_times import StreamTiming
from serve.live.avatar.performer import FaceLostError, Performer

TIMING = StreamTiming(
    chunk_samples=4_000, lookahead_samples=4_000, frame_samples=1_000, sample_rate=24_000, lead_samples=7_200
)


class LevelFace:
    """Draws the loudness it hears: a frame's pixels are a hundred times the agent's samples of its chunk.

    Like an engine it shows a chunk when those that overlap it are begun.
    """

    def __init__(self, timing: StreamTiming = TIMING) -> None:
        self.timing = timing
        self.waiting: list[np.ndarray] = []
        self.users: list[np.ndarray] = []
        self.ahead: list[np.ndarray] = []  # of the agent's voice in the lookahead
        self.starts = self.stops = 0
        self.lost = False
        self.changes: list[Change] = []

    async def start(self) -> None:
        if self.lost:
            raise FaceLostError("gone.")
        self.starts += 1
        self.waiting = []

    async def step(self, agent: np.ndarray, user: np.ndarray, *, within_s: float = 0.0) -> np.ndarray | None:
        await asyncio.sleep(0)
        if self.lost:
            raise FaceLostError("gone.")
        assert len(agent) == self.timing.chunk_samples + self.timing.lookahead_samples
        self.waiting.append(agent[: self.timing.chunk_samples])
        self.ahead.append(agent[self.timing.chunk_samples :])
        self.users.append(user)
        if len(self.waiting) <= self.timing.in_flight_chunks:
            return None
        levels = (100 * self.waiting.pop(0)[:: TIMING.frame_samples]).round().astype(np.uint8)
        return np.broadcast_to(levels[:, None, None, None], (len(levels), 16, 16, 3))

    async def stop(self) -> None:
        self.stops += 1

    async def change(self, change: Change) -> Applied:
        """Chunks are counted as they are pushed; more than three cannot be taken back."""
        if self.lost:
            raise FaceLostError("gone.")
        if isinstance(change, Rewind) and change.chunks > 3:
            raise ChangeRefusedError("chunks must be at most 3.")
        self.changes.append(change)
        return Applied(len(self.users), len(self.users) / 6)


class SlowFace(LevelFace):
    """Chunks take so many seconds, in turn, and where something is said `talking` times as long."""

    def __init__(self, *chunks_s: float, talking: float = 1.0) -> None:
        super().__init__()
        self.chunks_s, self.talking = itertools.cycle(chunks_s), talking

    async def step(self, agent: np.ndarray, user: np.ndarray, *, within_s: float = 0.0) -> np.ndarray | None:
        await asyncio.sleep(next(self.chunks_s) * (self.talking if agent.any() else 1.0))
        return await super().step(agent, user, within_s=within_s)


class RetakingFace(SlowFace):
    """And can be made again."""

    again = 0

    async def retake(self, agent: np.ndarray, *, within_s: float) -> np.ndarray | None:
        self.again += 1
        return await self.step(agent, self.users.pop(), within_s=within_s)


def played(
    performer: Performer, script: Callable[[Callable[[float], Awaitable[None]]], Awaitable[None]]
) -> tuple[np.ndarray, list[tuple[int, int]]]:
    """Samples that were heard and (sample, level) of the frames that were seen, while `script` acts.

    The script is given `play(seconds)`, which lets that much be heard; it ends with a second of its own.
    """
    voice: list[np.ndarray] = []
    frames: list[tuple[int, int]] = []

    async def play(seconds: float) -> None:
        for _ in range(round(seconds * 50)):
            for _ in range(20):
                await asyncio.sleep(0)
            part = performer.playout.advance(480)
            start = sum(map(len, voice))
            frames.extend((start + offset, int(pixels[0, 0, 0])) for offset, pixels in part.frames)
            voice.append(part.voice)

    async def run() -> None:
        task = asyncio.create_task(performer.run())
        try:
            await play(0.5)
            await script(play)
            await play(1)
        finally:
            task.cancel()

    turned_clock.run(run())
    return np.concatenate(voice), frames
