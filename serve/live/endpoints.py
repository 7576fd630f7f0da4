"""The parts of the conversation that any server can play that speaks OpenAI's API: waited for, but not forever.

Whatever goes wrong is raised: pipecat makes an error frame of it, and the session goes on.
"""

import asyncio
import json
import logging
import os
from collections.abc import AsyncGenerator
from dataclasses import dataclass
from typing import Any

from openai import AsyncOpenAI, OpenAIError
from pipecat.frames.frames import Frame, LLMContextFrame, StartFrame, TranscriptionFrame, TTSAudioRawFrame
from pipecat.processors.aggregators.llm_context import LLMContextMessage
from pipecat.processors.frame_processor import FrameDirection
from pipecat.services.openai.llm import OpenAILLMService
from pipecat.services.settings import STTSettings, TTSSettings
from pipecat.services.stt_service import SegmentedSTTService
from pipecat.services.tts_service import TTSService
from pipecat.utils.time import time_now_iso8601

from serve.live.hearing import SAMPLE_RATE
from serve.live.services import SPEECH_TIMEOUT_S

log = logging.getLogger(__name__)

ANSWER_TIMEOUT_S = 8.0  # a time that somebody would wait
RETRIES = 1
ANSWER_TOKENS = 400  # two minutes of speech
MEMORY_CHARS = 40_000
PCM_RATE = 24_000  # of OpenAI's speech
PCM_BYTES = 9_600  # 200 ms: passed on as they arrive


@dataclass(frozen=True, slots=True, kw_only=True)
class Endpoint:
    """A server that speaks OpenAI's API; its key is read from the environment and never stored in a file."""

    url: str | None
    model: str
    key_variable: str
    voice: str | None = None

    @property
    def key(self) -> str:
        return os.environ.get(self.key_variable) or "none"  # a server on one's own machine asks for no key

    def client(self) -> AsyncOpenAI:
        return AsyncOpenAI(api_key=self.key, base_url=self.url, timeout=ANSWER_TIMEOUT_S, max_retries=RETRIES)


class EndpointSTT(SegmentedSTTService):
    """Sends each utterance as a WAV file when it is finished."""

    def __init__(self, there: Endpoint) -> None:
        settings = STTSettings(model=there.model, language=None)
        super().__init__(sample_rate=SAMPLE_RATE, ttfs_p99_latency=1.5, settings=settings)
        self.there, self.client = there, there.client()

    async def cleanup(self) -> None:
        await super().cleanup()
        await self.client.close()  # or its connections stay open until the garbage is collected

    async def run_stt(self, audio: bytes) -> AsyncGenerator[Frame, None]:
        file = ("speech.wav", audio, "audio/wav")
        answer = await self.client.audio.transcriptions.with_raw_response.create(file=file, model=self.there.model)
        if text := transcribed(answer.text):
            yield TranscriptionFrame(text, self._user_id, time_now_iso8601())


def transcribed(body: str) -> str:
    """What was understood.

    Raises:
        ValueError: the body is no transcription.
    """
    try:
        return str(json.loads(body)["text"]).strip()
    except (ValueError, KeyError, TypeError) as error:
        raise ValueError(f'a transcription must be JSON with "text", is {body[:80]!r}.') from error


class EndpointTTS(TTSService):
    """Speaks sentence by sentence, in 16-bit samples as they arrive.

    Raises:
        ValueError: the engine wants another rate than the one OpenAI's speech has.
    """

    def __init__(self, there: Endpoint, *, voice: str, sample_rate: int) -> None:
        if sample_rate != PCM_RATE:
            raise ValueError(f"tts=openai has {PCM_RATE} Hz, the engine {sample_rate}. Choose tts=piper or espeak.")
        settings = TTSSettings(model=there.model, voice=voice, language=None)
        super().__init__(
            push_start_frame=True,
            push_stop_frames=True,
            stop_frame_timeout_s=SPEECH_TIMEOUT_S,
            sample_rate=sample_rate,
            settings=settings,
        )
        self.there, self.voice, self.client = there, voice, there.client()

    async def cleanup(self) -> None:
        await super().cleanup()
        await self.client.close()

    async def run_tts(self, text: str, context_id: str) -> AsyncGenerator[Frame, None]:
        speak = self.client.audio.speech.with_streaming_response.create
        async with speak(input=text, model=self.there.model, voice=self.voice, response_format="pcm") as answer:
            kind = answer.headers.get("Content-Type", "")
            if kind.startswith("text/") or "json" in kind:
                raise ValueError(f"speech must be 16-bit samples, is {kind}.")
            async for part in answer.iter_bytes(PCM_BYTES):
                whole = part[: len(part) // 2 * 2]  # only the end of a broken stream is odd
                yield TTSAudioRawFrame(whole, self.sample_rate, 1, context_id)


class EndpointLLM(OpenAILLMService):
    """A language model whose memory is the end of the conversation, so that it never outgrows the model's context.

    read_first: an instruction that the server is asked to read when the session starts. One that keeps what it has read
    then answers the first question sooner.
    """

    def __init__(
        self,
        there: Endpoint,
        *,
        tokens: int = ANSWER_TOKENS,
        memory_chars: int = MEMORY_CHARS,
        read_first: str | None = None,
    ) -> None:
        # max_tokens is the name that every server knows, OpenAI's newest models excepted.
        settings = OpenAILLMService.Settings(model=there.model, max_tokens=tokens)
        super().__init__(api_key=there.key, base_url=there.url, settings=settings)
        self.memory_chars, self.read_first = memory_chars, read_first
        self._reading: asyncio.Task[None] | None = None

    def create_client(self, *args: Any, **kwargs: Any) -> Any:
        return super().create_client(*args, **kwargs).with_options(timeout=ANSWER_TIMEOUT_S, max_retries=RETRIES)

    async def start(self, frame: StartFrame) -> None:
        await super().start(frame)
        if self.read_first:
            self._reading = self.create_task(self._read(self.read_first))

    async def cleanup(self) -> None:
        if self._reading:
            await self.cancel_task(self._reading)
            self._reading = None
        await super().cleanup()
        await self._client.close()

    async def _read(self, instruction: str) -> None:
        asked: Any = {"model": self._settings.model, "messages": [{"role": "system", "content": instruction}]}
        try:
            await self._client.chat.completions.create(**asked, max_tokens=1)
        except OpenAIError as error:
            log.warning("the language model did not read its instruction: %s", error)  # it will with the first question

    async def process_frame(self, frame: Frame, direction: FrameDirection) -> None:
        if isinstance(frame, LLMContextFrame):
            frame.context.set_messages(recent(frame.context.messages, self.memory_chars))
        await super().process_frame(frame, direction)


def recent(messages: list[LLMContextMessage], chars: int) -> list[LLMContextMessage]:
    """All messages while they have at most `chars` characters, else the instruction and the latest of half as many.

    Half: a server that keeps what it has read must read everything again after a cut, so cuts must be rare. The last
    message stays, however long.
    """
    if sum(map(_chars, messages[1:])) <= chars:
        return messages
    kept, room = [], chars // 2
    for message in reversed(messages[1:]):
        room -= _chars(message)
        if room < 0 and kept:
            break
        kept.append(message)
    return [messages[0], *reversed(kept)]


def _chars(message: LLMContextMessage) -> int:
    return len(str(message.get("content"))) if isinstance(message, dict) else 0
