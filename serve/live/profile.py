"""Which services a conversation uses: loaded once, shared by all sessions."""

from pipecat.processors.frame_processor import FrameProcessor

from serve.live.agent import Services
from serve.live.characters import Character
from serve.live.endpoints import Endpoint, EndpointLLM, EndpointSTT, EndpointTTS
from serve.live.espeak import Espeak
from serve.live.hearing import Moonshine, Recogniser, Whisper
from serve.live.local_llm import LocalLLM
from serve.live.low_priority import LowPriority
from serve.live.services import LocalSTT, LocalTTS, RuleLLM
from serve.live.voices import EspeakVoice, PiperVoice, Voice

RECOGNISERS: dict[str, type[Moonshine] | type[Whisper]] = {"moonshine": Moonshine, "whisper": Whisper}
THINKERS = ("rules", "local", "openai")
VOICES = ("espeak", "piper", "openai")


class Profile:
    """The three choices of configs/serve.yaml.

    Raises:
        ValueError: a choice that does not exist.
        MissingPackageError, FileNotFoundError: a choice's package or weights are not here; the message says the
            command that brings them.
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
        return EndpointSTT(self.endpoints["stt"])

    def _llm(self, character: Character) -> FrameProcessor:
        if self.llm == "rules":
            return RuleLLM(name=character.name)
        if self.local:
            here, read_first = self.local, character.personality
            return EndpointLLM(
                here.endpoint, tokens=here.max_tokens, memory_chars=here.memory_chars, read_first=read_first
            )
        return EndpointLLM(self.endpoints["llm"])

    def _tts(self, character: Character) -> FrameProcessor:
        if self.library:
            voice: Voice = self.piper or EspeakVoice(self.library, name=character.voice or "en-us")
            return LocalTTS(voice, self.pool, sample_rate=self.sample_rate)
        there = self.endpoints["tts"]
        return EndpointTTS(there, voice=there.voice or character.voice or "alloy", sample_rate=self.sample_rate)
