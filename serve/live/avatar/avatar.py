"""The character as the last speaking part of a pipecat pipeline: between the voice and the memory of what was said.

Speech that arrives is performed, not passed on. What tells that something *was said* (its words, the end of speech, the
end of the answer) is held until it has been heard, so that whoever comes after, the assistant's memory above all,
knows only what a listener knows.
"""

import asyncio
from collections.abc import Callable
from functools import partial

from pipecat.frames.frames import (
    BotStartedSpeakingFrame,
    BotStoppedSpeakingFrame,
    CancelFrame,
    EndFrame,
    Frame,
    InputAudioRawFrame,
    InterruptionFrame,
    LLMAssistantPushAggregationFrame,
    LLMFullResponseEndFrame,
    StartFrame,
    TTSAudioRawFrame,
    TTSStartedFrame,
    TTSStoppedFrame,
    TTSTextFrame,
)
from pipecat.processors.frame_processor import FrameDirection, FrameProcessor
from pipecat.utils.text.base_text_aggregator import TextType

from gwm.media.sound import from_pcm
from serve.live.avatar.performer import Performer
from serve.live.avatar.playout import nothing

# The generation when a frame was held, or None where the frame is to be passed on as it came.
Heard = tuple[int, Frame]


class Avatar(FrameProcessor):
    """Performs TTS audio, which must come at the engine's sample rate, and says when the character speaks.

    After an interruption nothing of the old generation is performed or passed on, whenever it comes. `on_rendered` is
    called when the first chunk of speech is ready, `on_silent` when the last sound after an interruption is sent.
    """

    def __init__(
        self,
        performer: Performer,
        *,
        on_rendered: Callable[[], None] = nothing,
        on_silent: Callable[[], None] = nothing,
    ) -> None:
        super().__init__()
        self.performer, self.on_rendered, self.on_silent = performer, on_rendered, on_silent
        self.generation = performer.generation  # of the speech that comes now
        self.passed_bytes = 0  # of the microphone's sound: everybody before has done with it
        self.speaking = False
        self._sentence_start = 0
        self._heard: asyncio.Queue[Heard] = asyncio.Queue()
        self._release: asyncio.Task[None] | None = None

    async def process_frame(self, frame: Frame, direction: FrameDirection) -> None:
        await super().process_frame(frame, direction)
        if isinstance(frame, StartFrame):
            await self.push_frame(frame, direction)
            self._release = self.create_task(self._pass_on_what_was_heard())
        elif isinstance(frame, (EndFrame, CancelFrame)):
            await self._stop()
            await self.push_frame(frame, direction)
        elif isinstance(frame, InterruptionFrame):
            await self._interrupt()
            await self.push_frame(frame, direction)
        elif isinstance(frame, InputAudioRawFrame):
            self.passed_bytes += len(frame.audio)
        elif direction is FrameDirection.UPSTREAM or not await self._perform(frame):
            await self.push_frame(frame, direction)

    async def cleanup(self) -> None:
        await self._stop()
        await super().cleanup()

    async def _perform(self, frame: Frame) -> bool:
        """Queue a frame that is part of speech; whether it was one."""
        if isinstance(frame, TTSStartedFrame):
            self.generation = self.performer.generation
            self._sentence_start = self.performer.speech_queue.said_samples
            return False
        if isinstance(frame, TTSAudioRawFrame):
            self._say(frame)
        elif isinstance(frame, TTSTextFrame):
            self._cue_words(frame)
        elif isinstance(frame, TTSStoppedFrame):
            self._hold(frame)
            self._hold(BotStoppedSpeakingFrame())
        elif isinstance(frame, (LLMFullResponseEndFrame, LLMAssistantPushAggregationFrame)):
            self._hold(frame)
        else:
            return False
        return True

    def _say(self, frame: TTSAudioRawFrame) -> None:
        rate = self.performer.timing.sample_rate
        if frame.sample_rate != rate:
            raise ValueError(f"speech of {frame.sample_rate} Hz must have the engine's {rate} Hz: resample it before.")
        if self.performer.speech_queue.said_samples == self._sentence_start:
            self._hold(BotStartedSpeakingFrame(), rendered=self.on_rendered)
        voice = from_pcm(frame.audio)
        self.performer.say(voice, generation=self.generation)

    def _cue_words(self, frame: TTSTextFrame) -> None:
        """Each word at its share of the sentence's sound, which came before: an interruption keeps those before it."""
        start, end = self._sentence_start, self.performer.speech_queue.said_samples
        self._sentence_start = end
        words, at = frame.text.split(), 0
        length = sum(map(len, words))
        for word in words:
            at += len(word)
            part = TTSTextFrame(word, text_type=TextType.WORD)
            part.append_to_context, part.context_id = frame.append_to_context, frame.context_id
            self._hold(part, sample=start + (end - start) * at // length)

    def _hold(self, frame: Frame, *, sample: int | None = None, rendered: Callable[[], None] = nothing) -> None:
        action = partial(self._heard.put_nowait, (self.generation, frame))
        self.performer.cue(action, generation=self.generation, sample=sample, rendered=rendered)

    async def _pass_on_what_was_heard(self) -> None:
        while True:
            await self._pass_on(*await self._heard.get())

    async def _pass_on(self, generation: int, frame: Frame) -> None:
        if generation != self.performer.generation:
            return
        if isinstance(frame, (BotStartedSpeakingFrame, BotStoppedSpeakingFrame)):
            await self._set_speaking(isinstance(frame, BotStartedSpeakingFrame))
        else:
            await self.push_frame(frame)

    async def _set_speaking(self, speaking: bool) -> None:
        if speaking != self.speaking:
            self.speaking = speaking
            await self.broadcast_frame(BotStartedSpeakingFrame if speaking else BotStoppedSpeakingFrame)

    async def _interrupt(self) -> None:
        self.performer.interrupt(self.on_silent if self.speaking else nothing)
        await self._set_speaking(False)

    async def _stop(self) -> None:
        if self._release:
            await self.cancel_task(self._release)
            self._release = None
