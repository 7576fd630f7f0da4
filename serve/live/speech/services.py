"""The parts of the conversation that run here, as pipecat services; among them replies by rules."""

import asyncio
import re
import secrets
from abc import abstractmethod
from collections.abc import AsyncGenerator, AsyncIterator, Callable
from typing import Any

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
    UserStoppedSpeakingFrame,
)
from pipecat.processors.aggregators.llm_context import LLMContext
from pipecat.processors.frame_processor import FrameDirection, FrameProcessor
from pipecat.services.settings import STTSettings, TTSSettings
from pipecat.services.stt_service import SegmentedSTTService
from pipecat.services.tts_service import TTSService
from pipecat.utils.time import time_now_iso8601

from gwm.media.sound import from_pcm, to_pcm
from serve.live.low_priority import LowPriority
from serve.live.speech.call_rules import chosen_call, spoken_result
from serve.live.speech.knowledge import Knowledge
from serve.live.speech.phrases import first_phrase
from serve.live.speech.recogniser import SAMPLE_RATE, Recogniser
from serve.live.speech.sight_rules import about_sight
from serve.live.speech.tools import Call, Tool, perform
from serve.live.speech.voices import Voice
from serve.live.vision.sight import Sight

# pipecat takes a voice that says nothing for so long for one that has finished, and loses what it says after that.
SPEECH_TIMEOUT_S = 30.0


def ignore_error(done: asyncio.Future[Any]) -> None:
    """Of what was begun before it was asked for: whoever asks for it gets the error."""
    if not done.cancelled():
        done.exception()


class LocalSTT(SegmentedSTTService):
    """A `Recogniser` shared by all sessions."""

    def __init__(self, recogniser: Recogniser, pool: LowPriority) -> None:
        # The time-out only matters where a recogniser says nothing at all: it bounds the wait after the last word.
        super().__init__(sample_rate=SAMPLE_RATE, ttfs_p99_latency=1.0, settings=STTSettings(model=None, language=None))
        self.recogniser, self.pool = recogniser, pool
        self.on_guess: Callable[[str], None] = lambda text: None  # what was said in this turn, if it ends here
        self._guess: tuple[bytes, asyncio.Future[str]] | None = None  # of what was said before the latest pause
        self._said = list[str]()  # in this turn, before other pauses

    @property
    def wants_wav_segments(self) -> bool:
        return False

    def on_pause(self) -> None:
        """Begin to recognise what was said so far: most pauses end an utterance."""
        self._forget()
        audio = bytes(self._audio_buffer)
        # No task of pipecat's, which would log an exception and answer None: the visitor would wait for nothing.
        recognising = asyncio.ensure_future(self._transcribe(audio + self._trailing_silence()))
        recognising.add_done_callback(self._guessed)
        self._guess = audio, recognising

    async def run_stt(self, audio: bytes) -> AsyncGenerator[Frame, None]:
        if self._guess and audio.startswith(self._guess[0]):  # after the latest pause of an utterance nothing is said
            (_, recognising), self._guess = self._guess, None
            text = await recognising
        else:
            text = await self._transcribe(audio)
        if text:
            self._said.append(text)
            yield TranscriptionFrame(text, self._user_id, time_now_iso8601())

    async def process_frame(self, frame: Frame, direction: FrameDirection) -> None:
        if isinstance(frame, UserStoppedSpeakingFrame):
            self._said.clear()
        await super().process_frame(frame, direction)

    async def cleanup(self) -> None:
        self._forget()
        await super().cleanup()

    def _guessed(self, recognising: asyncio.Future[str]) -> None:
        if not (recognising.cancelled() or recognising.exception()) and recognising.result():
            self.on_guess(" ".join([*self._said, recognising.result()]))

    def _forget(self) -> None:
        """A guess that somebody has spoken past; one that no thread has begun yet is never made."""
        if self._guess:
            (_, recognising), self._guess = self._guess, None
            recognising.cancel()

    async def _transcribe(self, audio: bytes) -> str:
        return await self.pool.run(self.recogniser.transcribe, from_pcm(audio))


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
        self._prepared: tuple[str, asyncio.Future[np.ndarray]] | None = None

    def prepare(self, text: str) -> None:
        """Begin to speak what will probably be said next; it is thrown away when something else is."""
        self._forget()
        speaking = asyncio.ensure_future(self.pool.run(self._speak, text))
        speaking.add_done_callback(ignore_error)
        self._prepared = text, speaking

    async def run_tts(self, text: str, context_id: str) -> AsyncGenerator[Frame, None]:
        if self._prepared and self._prepared[0] == text:
            (_, speaking), self._prepared = self._prepared, None
            sound = await speaking
        else:
            sound = await self.pool.run(self._speak, text)
        yield TTSAudioRawFrame(to_pcm(sound).tobytes(), self.sample_rate, 1, context_id)

    async def cleanup(self) -> None:
        self._forget()
        await super().cleanup()

    def _forget(self) -> None:
        if self._prepared:
            (_, speaking), self._prepared = self._prepared, None
            speaking.cancel()

    def _speak(self, text: str) -> np.ndarray:
        return soxr.resample(self.voice.speak(text), self.voice.sample_rate, self.sample_rate).clip(-1, 1)


class Answers(FrameProcessor):
    """Answers questions in the place of a language model; what `reply` answers with None is passed on."""

    async def process_frame(self, frame: Frame, direction: FrameDirection) -> None:
        await super().process_frame(frame, direction)
        reply = await self.reply(last_heard(frame.context)) if isinstance(frame, LLMContextFrame) else None
        if reply is None:
            await self.push_frame(frame, direction)
            return
        await self.push_frame(LLMFullResponseStartFrame())
        await self.push_frame(LLMTextFrame(reply))
        await self.push_frame(LLMFullResponseEndFrame())

    @abstractmethod
    async def reply(self, heard: str) -> str | None:
        """The answer."""


class RuleCalls(Answers):
    """Calls the tool whose words a question has, and says the result: before a language model that calls none."""

    def __init__(self, on_call: Callable[[Call], None]) -> None:
        super().__init__()
        self.tools, self.on_call = list[Tool](), on_call

    async def reply(self, heard: str) -> str | None:
        call = chosen_call(heard, self.tools)
        if call is None:
            return None
        tool, arguments = call
        return spoken_result(tool, await perform(tool, secrets.token_hex(4), arguments, self.on_call))


class RuleLLM(Answers):
    """`small_talk` in the place of a language model. It quotes the sentence of a document, or of what the visitor
    shows, that a question is about."""

    answers_early = True  # also in pauses: it costs next to nothing

    def __init__(self, *, name: str, knowledge: Knowledge | None = None) -> None:
        super().__init__()
        self.character, self.knowledge = name, knowledge
        self.sight: Sight | None = None

    async def begin_answer(self, context: LLMContext, heard: str) -> str:
        """The first phrase of what is answered if `heard` was all."""
        return await first_phrase(_once(await self.reply(heard)))

    async def reply(self, heard: str) -> str:
        if self.sight is not None:
            self.sight.begin_question()
            if seen := await about_sight(heard, self.sight):
                return seen
        found = await self.knowledge.sentence(heard) if self.knowledge else None
        return f"{found.document} says: {found.text}" if found else small_talk(heard, name=self.character)


async def _once(text: str) -> AsyncIterator[str]:
    yield text


def last_heard(context: LLMContext) -> str:
    """The text of the last user message, empty when there is none."""
    for message in reversed(context.messages):
        if isinstance(message, dict) and message["role"] == "user":
            return str(message["content"])
    return ""


Rule = tuple[re.Pattern[str], str]


def _rule(pattern: str, reply: str) -> Rule:
    return re.compile(pattern, re.IGNORECASE), reply


RULES: tuple[Rule, ...] = (
    _rule(r"\b(hello|hi|hey|good (morning|evening|afternoon))\b", "Hello! It is good to see you. How are you today?"),
    _rule(r"\bhow are you\b", "I am very well, thank you for asking. And you?"),
    _rule(r"\b(your name|who are you)\b", "My name is {name}. I am a talking picture, made one chunk at a time."),
    _rule(
        r"\b(story|tell me (more|about|something))\b",
        "Let me tell you a story. Once there was a picture on a wall that looked at everyone who passed by. One day "
        "somebody stopped and asked it a question. The picture thought for a moment, and then it opened its mouth and "
        "answered. Since that day it has never been alone again.",
    ),
    _rule(
        r"\bhow (do|does) (you|it|this) work\b",
        "I hear you, I think of words, and every sixth of a second a small "
        "network draws the next four pictures of my face.",
    ),
    _rule(r"\b(weather|rain|sun)\b", "I cannot look out of the window from in here. What is it like where you are?"),
    _rule(r"\b(bye|goodbye|see you)\b", "Goodbye! Come back whenever you like."),
    _rule(r"\b(thanks|thank you)\b", "You are welcome."),
)
NOTHING = "I did not quite hear that. Could you say it again?"
OTHERWISE = "You said: {heard} I find that interesting. Tell me more."


def small_talk(heard: str, *, name: str) -> str:
    """Reply by rules, for servers without a language model and for tests: what the character called `name` answers."""
    heard = heard.strip()
    if not heard:
        return NOTHING
    if heard[-1] not in ".!?":
        heard += "."
    answer = next((text for pattern, text in RULES if pattern.search(heard)), OTHERWISE)
    return answer.format(name=name, heard=heard)
