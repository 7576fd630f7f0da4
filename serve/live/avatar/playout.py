"""The queue of sound and frames between the engine and the network; the clock is that of the sound."""

import asyncio
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field, replace

import numpy as np
from jaxtyping import Int16, UInt8

FADE_SAMPLES = 120  # 5 ms: a voice that is cut off without a fade clicks

Pixels = UInt8[np.ndarray, "h w 3"]


def nothing() -> None:
    """The default callback: does nothing."""


@dataclass(slots=True)
class Cue:
    """A callback for the moment at which the sound of its chunk has been heard up to `sample`.

    rendered: happens before, when the chunk is ready to be played.
    """

    sample: int
    action: Callable[[], None]
    rendered: Callable[[], None] = nothing


@dataclass(slots=True)
class Chunk:
    """Sound, the frames that are shown during it, and its cues; without frames the picture stays."""

    voice: Int16[np.ndarray, " t"]
    frames: UInt8[np.ndarray, "f h w 3"] | None
    cues: list[Cue] = field(default_factory=list)


@dataclass(slots=True)
class Slice:
    """A packet to be played: samples, and each frame that begins within them with its first sample."""

    voice: Int16[np.ndarray, " t"]
    frames: list[tuple[int, Pixels]]


class Playout:
    """Chunks between the engine and the wire, never more than `limit_samples` of them.

    Whoever sends sound calls `advance`: its pace is the pace of everything. Too late a chunk stops picture and sound
    together, so that they cannot drift apart.
    """

    def __init__(self, *, frame_samples: int, limit_samples: int) -> None:
        self.frame_samples, self.limit_samples = frame_samples, limit_samples
        self.queued_samples = self.played_samples = self.stalled_samples = self.stalls = 0
        self._chunks: deque[Chunk] = deque()
        self._offset = 0  # of the first chunk
        self._moved = asyncio.Event()  # something was played, or put
        self._stalled = False

    @property
    def stalled(self) -> bool:
        """Whether it has run dry, after something was played."""
        return self._stalled

    def put(self, chunk: Chunk) -> None:
        self._chunks.append(chunk)
        self.queued_samples += len(chunk.voice)
        self._moved.set()
        for cue in chunk.cues:
            cue.rendered()

    @property
    def begun_frames(self) -> int | None:
        """How many frames of the latest chunk were handed out; None where none is left of it that could change."""
        if not self._chunks or self._chunks[-1].frames is None:
            return None
        return -(-self._offset // self.frame_samples) if len(self._chunks) == 1 else 0

    def replace_frames(self, frames: UInt8[np.ndarray, "f h w 3"]) -> None:
        """Other frames of the latest chunk, as far as they were not handed out yet."""
        if self._chunks:
            self._chunks[-1].frames = frames

    def replace_end(self, chunk: Chunk) -> None:
        """Other sound of the latest chunk, at its end where it was not played yet, with its cues; and other frames, of
        all of it."""
        last = self._chunks[-1]
        begin = len(last.voice) - len(chunk.voice)
        last.voice, last.frames = np.concatenate([last.voice[:begin], chunk.voice]), chunk.frames
        cues = [replace(cue, sample=begin + cue.sample) for cue in chunk.cues]
        last.cues = sorted([*last.cues, *cues], key=lambda cue: cue.sample)
        for cue in cues:
            cue.rendered()

    def has_room(self, samples: int) -> bool:
        """Whether so many samples more are within the limit."""
        return self.queued_samples + samples <= self.limit_samples

    async def wait_until(self, condition: Callable[[], bool]) -> None:
        """Wait until something is so, which is looked at whenever something moves."""
        while not condition():
            self._moved.clear()
            await self._moved.wait()

    async def wait_until_ready(self, samples: int) -> None:
        """Wait until so many samples lie ready."""
        await self.wait_until(lambda: self.queued_samples >= samples)

    def wake(self) -> None:
        """Let whoever waits look again."""
        self._moved.set()

    def advance(self, samples: int) -> Slice:
        """The next samples; silence, and no frame, where the chunks do not suffice."""
        voice, frames, at = np.zeros(samples, np.int16), [], 0
        while at < samples and self._chunks:
            chunk = self._chunks[0]
            begin = self._offset
            end = min(begin + samples - at, len(chunk.voice))
            voice[at : at + end - begin] = chunk.voice[begin:end]
            frames += [(at + start - begin, pixels) for start, pixels in self._frames(chunk) if begin <= start < end]
            at += end - begin
            self._pass(chunk, end)
        self._count(at, samples - at)
        self._moved.set()
        return Slice(voice, frames)

    def fade_out(self, on_silent: Callable[[], None] = nothing) -> None:
        """Fade what is queued to silence and forget its cues. Its frames stay: without them there would be a jump.

        on_silent: called when the last sample of the fade is played.
        """
        fade = np.linspace(1, 0, FADE_SAMPLES)
        last: tuple[Chunk, int] | None = None
        for chunk in self._chunks:
            start = self._offset if chunk is self._chunks[0] else 0
            faded = chunk.voice[start:][: len(fade)] * fade[: len(chunk.voice) - start]
            chunk.voice = np.zeros_like(chunk.voice)
            chunk.voice[start : start + len(faded)] = faded.astype(np.int16)
            chunk.cues.clear()
            if len(faded):
                last = chunk, start + len(faded)
            fade = fade[len(faded) :]
        if last:
            chunk, sample = last
            chunk.cues.append(Cue(sample, on_silent))
        else:
            on_silent()

    def _frames(self, chunk: Chunk) -> list[tuple[int, Pixels]]:
        frames = [] if chunk.frames is None else chunk.frames
        return [(number * self.frame_samples, pixels) for number, pixels in enumerate(frames)]

    def _pass(self, chunk: Chunk, end: int) -> None:
        due = [cue for cue in chunk.cues if cue.sample <= end]
        chunk.cues = chunk.cues[len(due) :]
        self._offset = end
        if end == len(chunk.voice):
            self._chunks.popleft()
            self._offset = 0
        for cue in due:
            cue.action()

    def _count(self, played: int, missing: int) -> None:
        self.played_samples += played
        self.queued_samples -= played
        if not missing or not self.played_samples:
            self._stalled = False
            return
        self.stalled_samples += missing
        self.stalls += not self._stalled
        self._stalled = True
