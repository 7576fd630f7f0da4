"""Speech recognition and a voice behind OpenAI's API.

Whatever goes wrong is raised: pipecat makes an error frame of it, and the session goes on.
"""

import asyncio
import contextlib
import io
import json
import re
import wave
from collections.abc import AsyncGenerator, AsyncIterator, Callable
from typing import Any

import httpx2
import numpy as np
from jaxtyping import Float
from openai import AsyncOpenAI, OpenAIError
from pipecat.frames.frames import Frame, StartFrame, TranscriptionFrame, TTSAudioRawFrame
from pipecat.processors.frame_processor import FrameDirection
from pipecat.services.settings import STTSettings, TTSSettings
from pipecat.services.stt_service import SegmentedSTTService
from pipecat.services.tts_service import TTSService
from pipecat.utils.time import time_now_iso8601

from gwm.media.sound import to_pcm
from serve.live.speech.endpoint_failures import EndpointError, Place, explained, unexpected
from serve.live.speech.endpoint_llm import NoticeFrame
from serve.live.speech.endpoints import Caller, Endpoint, WarmUp
from serve.live.speech.recogniser import SAMPLE_RATE
from serve.live.speech.speech_bytes import decoded
from serve.live.speech.voices import EndpointVoice

PART_BYTES = 9_600  # 200 ms: passed on as they arrive
BETWEEN_S = 10.0  # two sentences of an answer, after the first byte
WARM_UP_S = 0.5  # of silence, for a recogniser to load its model
NOT_SPEECH = re.compile(r"[\s.]*(?:[\[(<*\u266a][^\])>*\u266a]*[\])>*\u266a][\s.]*)*")  # such as [BLANK_AUDIO]


class EndpointSTT(SegmentedSTTService):
    """Sends each utterance as a WAV file when it is finished."""

    def __init__(self, caller: Caller) -> None:
        settings = STTSettings(model=caller.endpoint.model, language=None)
        super().__init__(sample_rate=SAMPLE_RATE, ttfs_p99_latency=1.5, settings=settings)
        self.caller, self.client = caller, caller.endpoint.client()
        self._warm_up = WarmUp(self, caller)

    async def start(self, frame: StartFrame) -> None:
        await super().start(frame)
        if not self.caller.warm:
            self._warm_up.begin(self._first_request)

    async def cleanup(self) -> None:
        await self._warm_up.end()
        await super().cleanup()
        await self.client.close()  # or its connections stay open until the garbage is collected

    async def run_stt(self, audio: bytes) -> AsyncGenerator[Frame, None]:
        if text := await self._text(audio):
            yield TranscriptionFrame(text, self._user_id, time_now_iso8601())

    async def _text(self, audio: bytes) -> str:
        """The words of one utterance, given as a WAV file.

        Raises:
            EndpointError: there is none; the message says why.
        """
        parameters = {"file": ("speech.wav", audio, "audio/wav"), "model": self.caller.endpoint.model}
        create = self.client.audio.transcriptions.with_raw_response.create
        try:
            answer = await self.caller.send(create, parameters, on_slow=_notifier(self))
            return transcribed(answer.text, answer.headers.get("content-type", ""), self.caller.place)
        except (OpenAIError, httpx2.HTTPError, OSError) as error:
            raise explained(error, self.caller.place) from error

    async def _first_request(self) -> None:
        buffer = io.BytesIO()
        with wave.open(buffer, "wb") as file:
            file.setparams((1, 2, SAMPLE_RATE, 0, "NONE", ""))
            file.writeframes(bytes(2 * round(WARM_UP_S * SAMPLE_RATE)))
        await self._text(buffer.getvalue())


def transcribed(body: str, content_type: str, place: Place) -> str:
    """What was understood; empty where only a noise was.

    Raises:
        EndpointError: the body is no transcription.
    """
    kind = content_type.partition(";")[0].strip()
    if kind == "text/plain" and body.lstrip()[:1] not in "{<":
        text: Any = body
    else:
        try:
            text = json.loads(body)["text"]
        except (ValueError, KeyError, TypeError) as error:
            raise unexpected(kind, body.encode(), place) from error
    if not isinstance(text, str):
        raise unexpected(kind, body.encode(), place)
    return "" if NOT_SPEECH.fullmatch(text) else text.strip()


async def speech(
    caller: Caller,
    client: AsyncOpenAI,
    text: str,
    voice: EndpointVoice,
    *,
    sample_rate: int,
    on_slow: Callable[[str], None] = lambda message: None,
) -> AsyncIterator[Float[np.ndarray, " t"]]:
    """A text in a voice of an endpoint, as the sound arrives.

    Raises:
        EndpointError, OpenAIError, HTTPError, OSError: there is no sound, or it ends too early.
    """
    parameters = {"input": text, "model": caller.endpoint.model, "response_format": "pcm", **voice.parameters}
    speak = client.audio.speech.with_streaming_response.create
    async with contextlib.AsyncExitStack() as stack:

        async def request(**sent: Any) -> Any:
            return await stack.enter_async_context(speak(**sent))

        answer = await caller.send(request, parameters, on_slow=on_slow)
        kind, parts = answer.headers.get("content-type", ""), aiter(answer.iter_bytes(PART_BYTES))
        async for samples in decoded(parts, kind, sample_rate=sample_rate, place=caller.place):
            yield samples


def spoken(endpoint: Endpoint, voice: EndpointVoice, text: str, sample_rate: int) -> Float[np.ndarray, " t"]:
    """A text whole, outside of a conversation; takes long, for a thread.

    Raises:
        ValueError: there is no sound; the message says why.
    """

    async def whole() -> Float[np.ndarray, " t"]:
        caller = Caller(endpoint, "tts")
        async with endpoint.client() as client:
            parts = [part async for part in speech(caller, client, text, voice, sample_rate=sample_rate)]
        return np.concatenate([np.zeros(0, np.float32), *parts])

    try:
        return asyncio.run(whole())
    except (EndpointError, OpenAIError, httpx2.HTTPError, OSError) as error:
        raise ValueError(str(explained(error, Caller(endpoint, "tts").place))) from error


class EndpointTTS(TTSService):
    """Speaks sentence by sentence, as the sound arrives."""

    def __init__(self, caller: Caller, *, voice: EndpointVoice, sample_rate: int) -> None:
        settings = TTSSettings(model=caller.endpoint.model, voice=voice.name or voice.id, language=None)
        super().__init__(
            push_start_frame=True,
            push_stop_frames=True,
            max_consecutive_zero_audio_contexts=0,  # or a voice that failed three times is never asked again
            stop_frame_timeout_s=caller.endpoint.first_byte_s + BETWEEN_S,
            sample_rate=sample_rate,
            settings=settings,
        )
        self.caller, self.voice, self.rate, self.client = caller, voice, sample_rate, caller.endpoint.client()

    async def cleanup(self) -> None:
        await super().cleanup()
        await self.client.close()

    async def run_tts(self, text: str, context_id: str) -> AsyncGenerator[Frame, None]:
        """Sound of one sentence, as it arrives.

        Raises:
            EndpointError: there is no sound, or it ends too early; the message says why.
        """
        try:
            sound = speech(self.caller, self.client, text, self.voice, sample_rate=self.rate, on_slow=_notifier(self))
            async for part in sound:
                yield TTSAudioRawFrame(to_pcm(part).tobytes(), self.rate, 1, context_id)
        except (OpenAIError, httpx2.HTTPError, OSError) as error:
            raise explained(error, self.caller.place) from error


def _notifier(service: SegmentedSTTService | TTSService) -> Callable[[str], None]:
    """Tells the visitor why nothing happens."""

    def notify(message: str) -> None:
        service.create_task(service.push_frame(NoticeFrame(message), FrameDirection.UPSTREAM))

    return notify
