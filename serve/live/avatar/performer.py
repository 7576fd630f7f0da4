"""Two voices to a stream of chunks that never ends: silence is rendered too."""

import asyncio
import contextlib
import logging
from collections import deque
from collections.abc import Callable, Coroutine
from dataclasses import dataclass, field
from typing import Any, Protocol, runtime_checkable

import numpy as np
from jaxtyping import UInt8

from gwm.media.sound import to_pcm
from serve.acts import Applied
from serve.live.avatar.changes import Act, Change, ChangeRefusedError, Redo
from serve.live.avatar.chunk_times import ChunkTimes, StreamTiming
from serve.live.avatar.playout import Chunk, Cue, Playout, nothing
from serve.live.avatar.voice_buffers import Ahead, MicBuffer, Sound, SpeechQueue
from serve.live.traces import SessionTrace

log = logging.getLogger(__name__)

REDONE = 2  # times a chunk is made again at most: two keys, and no flood
RETRY_S = 1.0  # between attempts to get a lost engine back
Frames = UInt8[np.ndarray, "f h w 3"]


class FaceLostError(RuntimeError):
    """The engine process is gone; it may come back."""


@runtime_checkable
class Face(Protocol):
    """An engine of one session, wherever it runs."""

    async def start(self) -> None:
        """Show the portrait and forget everything else; brings a lost engine back."""
        ...

    async def step(self, agent: Ahead, user: Sound, *, within_s: float = 0.0) -> Frames | None:
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

    async def redo(self, change: Redo) -> tuple[Applied, Frames]:
        """From when on the numbers hold, and all frames of the chunk.

        Raises:
            ChangeRefusedError: it cannot; the stream goes on as before.
            FaceLostError: there is no engine at the moment.
        """
        ...


@runtime_checkable
class Retaking(Protocol):
    """A face that can make its latest chunk again with other sound of the character."""

    async def retake(self, agent: Ahead, *, within_s: float) -> Frames | None:
        """All frames of the chunk; None where it cannot be made again, and the stream is as before.

        agent: as for `Face.step`.
        within_s: when it must be there.

        Raises:
            FaceLostError: there is no engine any more.
        """
        ...


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
        self.redoes = False  # numbers hold from the next frame that is shown, for a chunk of work each time
        self._turn, self._redone = asyncio.Lock(), 0  # one call of the face at a time; times its chunk was made again
        self._changed = False  # since the latest chunk was asked for: the engine's latest may be another
        self._changing = 0  # changes that are under way, which may go behind chunks that are asked for later
        self._begun: deque[Begun] = deque()
        self._chunk_times = ChunkTimes(timing)
        self._retakes = isinstance(face, Retaking) and not timing.in_flight_chunks
        self._silent = False  # nothing is said in the latest chunk, which the engine can make again
        self._revival: asyncio.Task[None] | None = None

    def say(self, voice: Sound, *, generation: int) -> None:
        if generation == self.generation:
            self.speech_queue.say(voice)
            self.playout.wake()

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
        """As `Face.change`; but where it `redoes`, numbers hold from the next frame that is shown, if the face can make
        the chunk again of which frames are left.

        Raises:
            ChangeRefusedError, FaceLostError: as `Face.change`.
        """
        if not (self.redoes and isinstance(self.face, Redoing) and isinstance(change, Act) and change.action):
            return await self._change(change)
        async with self._turn:
            frame, numbers = self.playout.begun_frames, change.action
            plain = all(isinstance(value, int | float) for value in numbers.values())
            latest = not (self._changed or self.timing.in_flight_chunks)
            if frame is None or not plain or not latest or self._redone == REDONE:
                return await self._change(change)
            self._redone += 1
            try:
                applied, frames = await self.face.redo(Redo(numbers, frame))
            except ChangeRefusedError:  # such as of a server that keeps no chunk to go back to
                return await self._change(change)
            self.playout.replace_frames(frames)
            return applied

    async def _change(self, change: Change) -> Applied:
        self._changed, self._changing = True, self._changing + 1
        try:
            return await self.face.change(change)
        finally:
            self._changing -= 1

    async def run(self) -> None:
        try:
            await self.face.start()
            while True:
                await self.playout.wait_until(lambda: self._onset() is not None or self._has_room())
                async with self._turn:
                    if (onset := self._onset()) is not None:
                        await self._speak_within(onset)
                    elif self._has_room():  # still, after a change that was waited for
                        await self._perform()
        finally:
            if self._revival:
                self._revival.cancel()

    def _has_room(self) -> bool:
        waits = self._silent and self.speech_queue.waiting_samples > 0
        return self.playout.has_room(self._chunk_times.room_samples(silent=self._silent, speech_waits=waits))

    def _onset(self) -> int | None:
        """The sample of the latest chunk, a silent one, from which on speech can be heard that has come since; None: it
        waits for the next chunk, or for more of it."""
        known = self.speech_queue.waiting_samples
        if self._changed or not (self._silent and known):
            return None
        sample = self._chunk_times.onset_sample(queued_samples=self.playout.queued_samples)
        return None if sample is None or known < self.timing.chunk_samples - sample else sample

    async def _speak_within(self, onset: int) -> None:
        """Make the latest chunk again, with the speech from a sample of it on; a little later in its sound where that
        takes longer than it should."""
        timing, self._silent = self.timing, False
        agent = np.zeros(timing.chunk_samples + timing.lookahead_samples, np.float32)
        agent[onset:] = self.speech_queue.peek(len(agent) - onset)
        ahead = self.playout.queued_samples - timing.chunk_samples + onset
        assert isinstance(self.face, Retaking)
        frames = await self._made(self.face.retake(agent, within_s=ahead / timing.sample_rate))
        if frames is None:
            self._retakes = self._revival is not None  # an engine that keeps no chunk never will
        elif left := min(self.playout.queued_samples, timing.chunk_samples - onset):
            voice, cues = self.speech_queue.take(left)
            self.playout.replace_end(Chunk(to_pcm(voice), frames, cues))

    async def _perform(self) -> None:
        timing, said = self.timing, self.speech_queue.waiting_samples
        voice, cues = self.speech_queue.take(timing.chunk_samples)
        self._begun.append(Begun(voice, cues))
        ahead = self.speech_queue.peek(timing.lookahead_samples)
        agent, user = np.concatenate([voice, ahead]), self.mic_buffer.take(timing.chunk_samples)
        within_s, self._changed = self.playout.queued_samples / timing.sample_rate, self._changing > 0
        frames = await self._made(self.face.step(agent, user, within_s=within_s))
        if len(self._begun) > timing.in_flight_chunks:
            shown = self._begun.popleft()
            self.on_chunk(self._outcome(frames))
            self.playout.put(Chunk(to_pcm(shown.voice), frames, shown.cues))
            self._redone, self._silent = 0, self._retakes and not said and frames is not None

    def _outcome(self, frames: Frames | None) -> str:
        if frames is None:
            return "no_picture"
        return "late" if self.playout.stalled else "in_time"

    async def _made(self, step: Coroutine[Any, Any, Frames | None]) -> Frames | None:
        """Frames of a call of the face; None where there are none, or no face."""
        begin = asyncio.get_running_loop().time()
        try:
            if not self._there():
                step.close()
                return None
            with self.trace.chunk() if self.trace else contextlib.nullcontext():
                frames = await step
        except FaceLostError as error:
            log.error("the picture is lost and the voice goes on: %s", error)
            self.losses += 1
            self._revival = asyncio.create_task(self._start_again())
            return None
        took_s = asyncio.get_running_loop().time() - begin
        self._chunk_times.add(took_s)
        self.on_step(1000 * took_s)
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
