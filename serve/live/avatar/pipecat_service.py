"""The character in anybody's pipecat pipeline, between their voice and their transport:

    Pipeline([transport.input(), stt, user, llm, tts, AvatarService(performer), transport.output(), assistant])

Voice and transport must have the engine's sample rate, and the transport `video_out_enabled` with its frames' size.
"""

import asyncio
import logging

import soxr
from pipecat.frames.frames import (
    EndFrame,
    Frame,
    InputAudioRawFrame,
    OutputImageRawFrame,
    TTSAudioRawFrame,
    TTSStoppedFrame,
)
from pipecat.processors.frame_processor import FrameDirection

from gwm.media.sound import from_pcm
from serve.live.avatar.avatar import Avatar
from serve.live.avatar.performer import FaceLostError, Performer
from serve.live.avatar.playout import Slice

log = logging.getLogger(__name__)

# Speech that lies ready in the transport. pipecat's own have no cushion: sound that comes in time comes too late.
AHEAD_S = 0.1
DRAIN_S = 2.0  # beyond the length of what is still to be said, at the end


class AvatarService(Avatar):
    """TTS audio goes in; it comes out again with its frames, as it is to be played, until it is interrupted.

    Each frame comes before its sound and is shown with it (`sync_with_audio`). The picture never stops, at the pace of
    a clock. When somebody speaks is for the transport to say. A lost engine is replaced, and the voice goes on
    meanwhile; one that never starts is an error, and everything passes as if there were no avatar.
    """

    def __init__(self, performer: Performer) -> None:
        super().__init__(performer)
        self._talking = self._absent = False
        self._microphone: tuple[int, soxr.ResampleStream] | None = None

    async def process_frame(self, frame: Frame, direction: FrameDirection) -> None:
        if isinstance(frame, EndFrame):
            await self._finish()
        await super().process_frame(frame, direction)
        if isinstance(frame, InputAudioRawFrame):
            self._push_microphone(frame)
            await self.push_frame(frame, direction)

    async def _perform(self, frame: Frame) -> bool:
        if self._absent:
            return False
        if isinstance(frame, TTSStoppedFrame):
            self.performer.cue(self._end, generation=self.generation)
        return await super()._perform(frame)

    def _say(self, frame: TTSAudioRawFrame) -> None:
        self.performer.cue(self._begin, generation=self.generation)
        super()._say(frame)

    def _begin(self) -> None:
        self._talking = True

    def _end(self) -> None:
        self._talking = False

    async def _interrupt(self) -> None:
        await super()._interrupt()
        self._talking = False

    async def _set_speaking(self, speaking: bool) -> None:
        self.speaking = speaking

    async def _pass_on_what_was_heard(self) -> None:
        """Play as well: what tells of the end of speech must come after its last sound."""
        performing = asyncio.create_task(self.performer.run())
        rate, frame_samples = self.performer.timing.sample_rate, self.performer.timing.frame_samples
        now_s = asyncio.get_running_loop().time
        start_s, sent = now_s(), 0
        try:
            while not performing.done():
                await self._play(frame_samples)
                while not self._heard.empty():
                    await self._pass_on(*self._heard.get_nowait())
                sent += frame_samples
                due_s = start_s + sent / rate - (AHEAD_S if self._talking else 0)
                await asyncio.sleep(due_s - now_s())
            performing.result()
        except FaceLostError as error:
            self._absent = True
            await self.push_error(f"there is no avatar: {error}")
        finally:
            performing.cancel()

    async def _play(self, samples: int) -> None:
        """A frame and its sound, which comes only while somebody speaks: the transport takes sound for speech."""
        generation, talking = self.performer.generation, self._talking
        part = self.performer.playout.advance(samples)
        talking |= self._talking
        for _, pixels in part.frames:
            height, width, _ = pixels.shape
            image = OutputImageRawFrame(pixels.tobytes(), (width, height), "RGB")
            image.sync_with_audio = True
            await self.push_frame(image)
        if talking and generation == self.performer.generation:
            await self.push_frame(self._sound(part))

    def _sound(self, part: Slice) -> TTSAudioRawFrame:
        return TTSAudioRawFrame(part.voice.tobytes(), self.performer.timing.sample_rate, 1)

    def _push_microphone(self, frame: InputAudioRawFrame) -> None:
        if not self._microphone or self._microphone[0] != frame.sample_rate:
            stream = soxr.ResampleStream(frame.sample_rate, self.performer.timing.sample_rate, 1, dtype="float32")
            self._microphone = frame.sample_rate, stream
        voice = from_pcm(frame.audio).reshape(-1, frame.num_channels)
        self.performer.push_microphone(self._microphone[1].resample_chunk(voice.mean(axis=1)))

    async def _finish(self) -> None:
        """Wait until everything has been said."""
        if self._absent:
            return
        queue, said = self.performer.speech_queue, asyncio.Event()
        self.performer.cue(said.set, generation=self.performer.generation)
        rest_s = queue.waiting_samples / self.performer.timing.sample_rate
        try:
            await asyncio.wait_for(said.wait(), rest_s + DRAIN_S)
        except TimeoutError:
            log.warning("ended before everything was said")
