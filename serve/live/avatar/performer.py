"""Two voices to a stream of chunks that never ends: silence is rendered too."""

import asyncio
import contextlib
import logging
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Protocol, runtime_checkable

import numpy as np
from jaxtyping import UInt8

from gwm.media.sound import to_pcm
from serve.acts import Applied
from serve.live.avatar.changes import Act, Change, ChangeRefusedError, Redo
from serve.live.avatar.playout import Chunk, Cue, Playout, nothing
from serve.live.avatar.voice_buffers import Ahead, MicBuffer, Sound, SpeechQueue
from serve.live.traces import SessionTrace

log = logging.getLogger(__name__)

REDONE = 2  # times a chunk is made again at most: two keys, and no flood
RETRY_S = 1.0  # between attempts to get a lost engine back
WATCHED_STEPS = 180  # the latest, half a minute of them, of which the slowest counts
HEADROOM = 1.3  # times the slowest, to be ahead by


class FaceLostError(RuntimeError):
    """The engine process is gone; it may come back."""


@runtime_checkable
class Face(Protocol):
    """An engine of one session, wherever it runs."""

    async def start(self) -> None:
        """Show the portrait and forget everything else; brings a lost engine back."""
        ...

    async def step(self, agent: Ahead, user: Sound, *, within_s: float = 0.0) -> UInt8[np.ndarray, "f h w 3"] | None:
        """Frames of the next chunk, or of the one that was begun before where chunks overlap: None behind the first.

        agent: the character's voice from the start of that chunk to the end of its lookahead. What it says of the
            lookahead may be changed by the next step: it is as much as is known.
        user: a chunk of the other's voice. The model hears it later by the lookahead, as nobody knows what will be
            said.
        within_s: when the player runs dry, if the frames are not there.

        Raises:
            FaceLostError: there is no engine any more.
        """
        ...

    async def stop(self) -> None: ...

    async def change(self, change: Change) -> Applied:
        """What the next chunks are generated under.

        Raises:
            ChangeRefusedError: it cannot be; the message says why, and the stream goes on as before.
            FaceLostError: there is no engine at the moment.
        """
        ...


@runtime_checkable
class Redoing(Protocol):
    """A face that can make its latest chunk again."""

    async def redo(self, change: Redo) -> tuple[Applied, UInt8[np.ndarray, "f h w 3"]]:
        """From when on the numbers hold, and all frames of the chunk.

        Raises:
            ChangeRefusedError: it cannot; the stream goes on as before.
            FaceLostError: there is no engine at the moment.
        """
        ...


@dataclass(frozen=True, slots=True)
class StreamTiming:
    """Samples of a chunk and of its lookahead, and how far the engine may be ahead of what is heard (the lead)."""

    chunk_samples: int
    lookahead_samples: int  # of the character's voice, which is known before it is heard: nobody waits for it
    frame_samples: int
    sample_rate: int
    lead_samples: int
    in_flight_chunks: int = 0  # that the engine has begun when it returns a chunk: one where chunks overlap

    def __post_init__(self) -> None:
        if self.lead_samples < self.chunk_samples:
            raise ValueError(
                f"lead of {self.lead_samples} samples must be at least a chunk's {self.chunk_samples}: otherwise "
                "nothing could be played. Raise lead_ms."
            )

    @property
    def delay_ms(self) -> float:
        """From when speech is taken to when it is heard and seen, at most."""
        return 1000 * (self.in_flight_chunks * self.chunk_samples + self.lead_samples) / self.sample_rate


@dataclass(slots=True)
class Begun:
    """A chunk of the character's voice whose frames have not come yet."""

    voice: Sound
    cues: list[Cue] = field(default_factory=list)

    def silence(self) -> None:
        self.voice = np.zeros_like(self.voice)
        self.cues.clear()


class Performer:
    """Speech goes in by `say` and `cue`, the microphone by `push_microphone`; `run` fills the playout until cancelled.

    `interrupt` begins a new generation: speech of an older one is dropped wherever it is, while the engine keeps its
    past and closes the mouth. When the engine is lost the voice goes on, the picture stays, and a new one is started.
    """

    def __init__(
        self,
        face: Face,
        timing: StreamTiming,
        *,
        on_step: Callable[[float], None] = lambda ms: None,
        on_chunk: Callable[[str], None] = lambda outcome: None,
        trace: SessionTrace | None = None,
    ) -> None:
        """on_step: milliseconds from the request of a chunk to its frames. on_chunk: in_time, late, or no_picture.
        trace: of which chunks are spans; None: nobody looks."""
        self.face, self.timing, self.on_step, self.on_chunk, self.trace = face, timing, on_step, on_chunk, trace
        self.playout = Playout(frame_samples=timing.frame_samples, limit_samples=timing.lead_samples)
        self.speech_queue, self.mic_buffer = SpeechQueue(), MicBuffer(limit_samples=2 * timing.chunk_samples)
        self.generation = self.losses = 0
        self._turn, self._redone = asyncio.Lock(), 0  # one call of the face at a time; times its chunk was made again
        self._begun: deque[Begun] = deque()
        self._steps_s = deque[float](maxlen=WATCHED_STEPS)
        self._revival: asyncio.Task[None] | None = None

    def say(self, voice: Sound, *, generation: int) -> None:
        if generation == self.generation:
            self.speech_queue.say(voice)

    def cue(
        self,
        action: Callable[[], None],
        *,
        generation: int,
        sample: int | None = None,
        rendered: Callable[[], None] = nothing,
    ) -> None:
        """Act when the speech has been heard up to `sample`, by default up to what was said so far.

        rendered: called before, when the engine has rendered it.
        """
        if generation == self.generation:
            self.speech_queue.cue(Cue(self.speech_queue.said_samples if sample is None else sample, action, rendered))

    def push_microphone(self, voice: Sound) -> None:
        self.mic_buffer.push(voice)

    def interrupt(self, on_silent: Callable[[], None] = nothing) -> None:
        """on_silent: called when the last sound of the old generation is played."""
        self.generation += 1
        self.speech_queue.clear()
        self.playout.fade_out(on_silent)
        for begun in self._begun:
            begun.silence()

    async def change(self, change: Change) -> Applied:
        """As `Face.change`; but numbers hold from the next frame that is shown, where the face can make the chunk again
        of which frames are left.

        Raises:
            ChangeRefusedError, FaceLostError: as `Face.change`.
        """
        if not (isinstance(self.face, Redoing) and isinstance(change, Act) and change.action):
            self._redone = REDONE  # what is shown is no longer the latest chunk of a stream that went back
            return await self.face.change(change)
        async with self._turn:
            frame, numbers = self.playout.begun_frames, change.action
            plain = all(isinstance(value, int | float) for value in numbers.values())
            if frame is None or not plain or self._redone == REDONE or self.timing.in_flight_chunks:
                return await self.face.change(change)
            self._redone += 1
            try:
                applied, frames = await self.face.redo(Redo(numbers, frame))
            except ChangeRefusedError:  # such as of a server that keeps no chunk to go back to
                return await self.face.change(change)
            self.playout.replace_frames(frames)
            return applied

    async def run(self) -> None:
        try:
            await self.face.start()
            while True:
                await self.playout.wait_for_room(self._room_samples())
                async with self._turn:
                    await self._perform()
        finally:
            if self._revival:
                self._revival.cancel()

    def _room_samples(self) -> int:
        """The room in the playout for which a chunk waits before it is begun: its own length, or less where chunks have
        lately been slow. It ends up within the lead, as at least so much is played while it is made."""
        rate, timing = self.timing.sample_rate, self.timing
        if not self._steps_s:
            return timing.chunk_samples
        early_s = HEADROOM * max(self._steps_s) - (timing.lead_samples - timing.chunk_samples) / rate
        return timing.chunk_samples - max(0, int(rate * min(early_s, min(self._steps_s))))

    async def _perform(self) -> None:
        timing = self.timing
        voice, cues = self.speech_queue.take(timing.chunk_samples)
        self._begun.append(Begun(voice, cues))
        ahead = self.speech_queue.peek(timing.lookahead_samples)
        frames = await self._frames(np.concatenate([voice, ahead]), self.mic_buffer.take(timing.chunk_samples))
        if len(self._begun) > timing.in_flight_chunks:
            shown = self._begun.popleft()
            self.on_chunk(self._outcome(frames))
            self.playout.put(Chunk(to_pcm(shown.voice), frames, shown.cues))
            self._redone = 0

    def _outcome(self, frames: UInt8[np.ndarray, "f h w 3"] | None) -> str:
        if frames is None:
            return "no_picture"
        return "late" if self.playout.stalled else "in_time"

    async def _frames(self, agent: Ahead, user: Sound) -> UInt8[np.ndarray, "f h w 3"] | None:
        begin = asyncio.get_running_loop().time()
        try:
            if not self._there():
                return None
            within_s = self.playout.queued_samples / self.timing.sample_rate
            with self.trace.chunk() if self.trace else contextlib.nullcontext():
                frames = await self.face.step(agent, user, within_s=within_s)
        except FaceLostError as error:
            log.error("the picture is lost and the voice goes on: %s", error)
            self.losses += 1
            self._revival = asyncio.create_task(self._start_again())
            return None
        self._steps_s.append(asyncio.get_running_loop().time() - begin)
        self.on_step(1000 * self._steps_s[-1])
        return frames

    def _there(self) -> bool:
        if self._revival and self._revival.done():
            self._revival = None
            log.info("the picture is back")
        return self._revival is None

    async def _start_again(self) -> None:
        while True:
            try:
                return await self.face.start()
            except FaceLostError as error:
                log.warning("no new engine yet: %s", error)
                await asyncio.sleep(RETRY_S)
