"""The parts of the conversation that run here, as pipecat services."""

from collections.abc import AsyncGenerator

import numpy as np
import soxr
from pipecat.frames.frames import (
    Frame,
    LLMContextFrame,
    LLMFullResponseEndFrame,
    LLMFullResponseStartFrame,
    LLMTextFrame,
    TranscriptionFrame,
    TTSAudioRawFrame,
)
from pipecat.processors.aggregators.llm_context import LLMContext
from pipecat.processors.frame_processor import FrameDirection, FrameProcessor
from pipecat.services.settings import STTSettings, TTSSettings
from pipecat.services.stt_service import SegmentedSTTService
from pipecat.services.tts_service import TTSService
from pipecat.utils.time import time_now_iso8601

from gwm.media.sound import from_pcm, to_pcm
from serve.live.low_priority import LowPriority
from serve.live.speech import small_talk
from serve.live.speech.knowledge import Knowledge, best_sentence
from serve.live.speech.recogniser import SAMPLE_RATE, Recogniser
from serve.live.speech.voices import Voice

# pipecat takes a voice that says nothing for so long for one that has finished, and loses what it says after that.
SPEECH_TIMEOUT_S = 30.0


class LocalSTT(SegmentedSTTService):
    """A `Recogniser` shared by all sessions."""

    def __init__(self, recogniser: Recogniser, pool: LowPriority) -> None:
        # The time-out only matters where a recogniser says nothing at all: it bounds the wait after the last word.
        super().__init__(sample_rate=SAMPLE_RATE, ttfs_p99_latency=1.0, settings=STTSettings(model=None, language=None))
        self.recogniser, self.pool = recogniser, pool

    @property
    def wants_wav_segments(self) -> bool:
        return False

    async def run_stt(self, audio: bytes) -> AsyncGenerator[Frame, None]:
        voice = from_pcm(audio)
        text = await self.pool.run(self.recogniser.transcribe, voice)
        if text:
            yield TranscriptionFrame(text, self._user_id, time_now_iso8601())


class LocalTTS(TTSService):
    """A `Voice` shared by all sessions, sentence by sentence."""

    def __init__(self, voice: Voice, pool: LowPriority, *, sample_rate: int) -> None:
        super().__init__(
            push_start_frame=True,
            push_stop_frames=True,
            max_consecutive_zero_audio_contexts=0,  # or a voice that failed three times is never asked again
            stop_frame_timeout_s=SPEECH_TIMEOUT_S,
            sample_rate=sample_rate,
            settings=TTSSettings(model=None, voice=None, language=None),
        )
        self.voice, self.pool = voice, pool

    async def run_tts(self, text: str, context_id: str) -> AsyncGenerator[Frame, None]:
        sound = await self.pool.run(self._speak, text)
        yield TTSAudioRawFrame(to_pcm(sound).tobytes(), self.sample_rate, 1, context_id)

    def _speak(self, text: str) -> np.ndarray:
        return soxr.resample(self.voice.speak(text), self.voice.sample_rate, self.sample_rate).clip(-1, 1)


class RuleLLM(FrameProcessor):
    """`small_talk` in the place of a language model; it quotes the sentence of a document that a question is about."""

    def __init__(self, *, name: str, knowledge: Knowledge | None = None) -> None:
        super().__init__()
        self.character, self.knowledge = name, knowledge

    async def process_frame(self, frame: Frame, direction: FrameDirection) -> None:
        await super().process_frame(frame, direction)
        if not isinstance(frame, LLMContextFrame):
            await self.push_frame(frame, direction)
            return
        await self.push_frame(LLMFullResponseStartFrame())
        await self.push_frame(LLMTextFrame(await self._reply(last_heard(frame.context))))
        await self.push_frame(LLMFullResponseEndFrame())

    async def _reply(self, heard: str) -> str:
        found = best_sentence(await self.knowledge([heard]), heard) if self.knowledge else None
        return f"{found.document} says: {found.text}" if found else small_talk.reply(heard, name=self.character)


def last_heard(context: LLMContext) -> str:
    """The text of the last user message, empty when there is none."""
    for message in reversed(context.messages):
        if isinstance(message, dict) and message["role"] == "user":
            return str(message["content"])
    return ""
