"""Which services a conversation uses: loaded once, shared by all sessions."""

import re
from typing import Any

import numpy as np
from pipecat.processors.frame_processor import FrameProcessor

from serve.live.avatar.voice_buffers import Sound
from serve.live.characters import Character
from serve.live.low_priority import LowPriority
from serve.live.speech.agent import Services
from serve.live.speech.endpoint_llm import EndpointLLM
from serve.live.speech.endpoint_speech import EndpointSTT, EndpointTTS
from serve.live.speech.endpoints import Caller, Endpoint, LocalLLM
from serve.live.speech.espeak_voice import Espeak
from serve.live.speech.kokoro_voice import DEFAULT, Kokoro
from serve.live.speech.recogniser import Moonshine, Recogniser, Whisper
from serve.live.speech.services import LocalSTT, LocalTTS, RuleLLM
from serve.live.speech.voices import EspeakVoice, PiperVoice, Tuning, Voice, voice_among, voice_for

RECOGNISERS: dict[str, type[Moonshine] | type[Whisper]] = {"moonshine": Moonshine, "whisper": Whisper}
OPENAI_VOICE = "alloy"  # of a character that names none
SENTENCE_END = re.compile(r"(?<=[.!?])\s+")


class Profile:
    """The three choices of configs/serve.yaml, and the voice of each character.

    Raises:
        ValueError: a character's voice that the choice does not have, or an endpoint without its key.
        MissingPackageError, FileNotFoundError: a choice's package or weights are not here; the message says the
            command that brings them.
    """

    def __init__(
        self,
        *,
        stt: str,
        llm: str,
        tts: str,
        endpoints: dict[str, Endpoint],
        characters: dict[str, Character],
        sample_rate: int,
    ) -> None:
        self.sample_rate, self.llm, self.tts = sample_rate, llm, tts
        chosen = {
            part: endpoints[part] for part, value in (("stt", stt), ("llm", llm), ("tts", tts)) if value == "openai"
        }
        for part, endpoint in chosen.items():
            endpoint.check_key(part)
        self.callers = {part: Caller(endpoint, part) for part, endpoint in chosen.items()}
        wishes = [voice_for(character, tts) for character in characters.values()]  # before anything is loaded
        self.pool = LowPriority()
        self.recogniser: Recogniser | None = self.pool.load(RECOGNISERS[stt]) if stt != "openai" else None
        self.library = library = None if tts == "openai" else Espeak()
        self.piper = self.pool.load(lambda: PiperVoice(library)) if library and tts == "piper" else None
        self.kokoro = self.pool.load(lambda: Kokoro(library)) if library and tts == "kokoro" else None
        if self.library:
            for wish in wishes:
                self.voice(wish)
        self.local = self.pool.load(LocalLLM) if llm == "local" else None
        if self.local:
            self.callers["llm"] = self.local.caller

    def close(self) -> None:
        self.pool.close()

    def services(self, character: Character) -> Services:
        return Services(stt=self._stt(), llm=self._llm(character), tts=self._tts(character))

    def voice(self, wish: str | Tuning | None) -> Voice:
        """One of the voices that run here.

        Raises:
            ValueError: there is no such voice.
        """
        if self.piper:
            return self.piper.tuned(wish) if isinstance(wish, Tuning) else self.piper
        if self.kokoro:
            tuning = wish if isinstance(wish, Tuning) else Tuning(name=wish)
            return self.kokoro.voice(tuning.name or DEFAULT, tuning)
        assert self.library is not None, "the voices are an endpoint's"
        return EspeakVoice(self.library, name=str(wish or "en-us"))

    def speak(self, voice: dict[str, Any], text: str) -> tuple[Sound, int]:
        """Sound of a text in a character's `voice`, and its samples a second; takes long, for a thread."""
        chosen = self.voice(voice_among(voice or None, self.tts))
        parts = [chosen.speak(sentence) for sentence in SENTENCE_END.split(text.strip())]
        return np.concatenate(parts), chosen.sample_rate

    def _stt(self) -> FrameProcessor:
        return LocalSTT(self.recogniser, self.pool) if self.recogniser else EndpointSTT(self.callers["stt"])

    def _llm(self, character: Character) -> FrameProcessor:
        if self.llm == "rules":
            return RuleLLM(name=character.name, knowledge=character.knowledge)
        caller, instruction = self.callers["llm"], character.instruction
        if here := self.local:
            return EndpointLLM(
                caller,
                instruction=instruction,
                knowledge=character.knowledge,
                tokens=here.max_tokens,
                memory_chars=here.memory_chars,
                known_chars=here.known_chars,
                reads_first=True,
                calls_tools=False,
            )
        return EndpointLLM(caller, instruction=instruction, knowledge=character.knowledge)

    def _tts(self, character: Character) -> FrameProcessor:
        if self.tts != "openai":
            return LocalTTS(self.voice(voice_for(character, self.tts)), self.pool, sample_rate=self.sample_rate)
        caller = self.callers["tts"]
        name = caller.endpoint.voice or str(voice_for(character, self.tts) or OPENAI_VOICE)
        return EndpointTTS(caller, voice=name, sample_rate=self.sample_rate)
