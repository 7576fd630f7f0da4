"""Which services a conversation uses: loaded once, shared by all sessions."""

import os
from dataclasses import dataclass

from pipecat.processors.frame_processor import FrameProcessor
from pipecat.services.openai.llm import OpenAILLMService
from pipecat.services.openai.stt import OpenAISTTService
from pipecat.services.openai.tts import OpenAITTSService

from serve.live.agent import Services
from serve.live.characters import Character
from serve.live.espeak import Espeak
from serve.live.hearing import Moonshine, Recogniser, Whisper
from serve.live.local_llm import LocalLLM
from serve.live.low_priority import LowPriority
from serve.live.services import EndpointLLM, LocalSTT, LocalTTS, RuleLLM
from serve.live.voices import EspeakVoice, PiperVoice, Voice

RECOGNISERS: dict[str, type[Moonshine] | type[Whisper]] = {"moonshine": Moonshine, "whisper": Whisper}
THINKERS = ("rules", "local", "openai")
VOICES = ("espeak", "piper", "openai")


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


class Profile:
    """The three choices of configs/serve.yaml.

    Raises:
        ValueError: a choice that does not exist.
        MissingPackageError: what a choice needs is not installed.
    """

    def __init__(self, *, stt: str, llm: str, tts: str, endpoints: dict[str, Endpoint], sample_rate: int) -> None:
        for name, value, allowed in (
            ("stt", stt, (*RECOGNISERS, "openai")),
            ("llm", llm, THINKERS),
            ("tts", tts, VOICES),
        ):
            if value not in allowed:
                raise ValueError(f"{name}={value!r} must be one of {allowed}.")
        self.endpoints, self.sample_rate, self.llm = endpoints, sample_rate, llm
        self.pool = LowPriority()
        self.recogniser: Recogniser | None = self.pool.load(RECOGNISERS[stt]) if stt != "openai" else None
        self.library = library = Espeak() if tts != "openai" else None
        self.piper = self.pool.load(lambda: PiperVoice(library)) if library and tts == "piper" else None
        self.local = self.pool.load(LocalLLM) if llm == "local" else None

    def close(self) -> None:
        self.pool.close()

    def services(self, character: Character) -> Services:
        return Services(stt=self._stt(), llm=self._llm(character), tts=self._tts(character))

    def _stt(self) -> FrameProcessor:
        if self.recogniser:
            return LocalSTT(self.recogniser, self.pool)
        there = self.endpoints["stt"]
        settings = OpenAISTTService.Settings(model=there.model)
        return OpenAISTTService(api_key=there.key, base_url=there.url, settings=settings)

    def _llm(self, character: Character) -> FrameProcessor:
        if self.llm == "rules":
            return RuleLLM(name=character.name)
        if self.local:
            settings = OpenAILLMService.Settings(model=self.local.model, max_tokens=self.local.max_tokens)
            return EndpointLLM(api_key="none", base_url=self.local.url, settings=settings)
        there = self.endpoints["llm"]
        settings = OpenAILLMService.Settings(model=there.model)
        return EndpointLLM(api_key=there.key, base_url=there.url, settings=settings)

    def _tts(self, character: Character) -> FrameProcessor:
        if self.library:
            voice: Voice = self.piper or EspeakVoice(self.library, name=character.voice or "en-us")
            return LocalTTS(voice, self.pool, sample_rate=self.sample_rate)
        there = self.endpoints["tts"]
        settings = OpenAITTSService.Settings(model=there.model, voice=character.voice or there.voice)
        return OpenAITTSService(api_key=there.key, base_url=there.url, sample_rate=self.sample_rate, settings=settings)
