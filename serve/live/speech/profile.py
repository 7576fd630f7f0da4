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
from serve.live.speech.endpoint_speech import EndpointSTT, EndpointTTS, spoken
from serve.live.speech.endpoints import Caller, Endpoint, LocalLLM
from serve.live.speech.local_voices import LocalVoices
from serve.live.speech.recogniser import Moonshine, Recogniser, Whisper
from serve.live.speech.services import LocalSTT, LocalTTS, RuleLLM
from serve.live.speech.voice_servers import Speech, voice_server
from serve.live.speech.voices import EndpointVoice, Tuning, Voice, voice_among, voice_for

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
        self.voices = self.pool.load(lambda: LocalVoices(tts)) if tts != "openai" else None
        if self.voices:
            for wish in wishes:
                self.voice(wish)
        self.local = self.pool.load(LocalLLM) if llm == "local" else None
        if self.local:
            self.callers["llm"] = self.local.caller

    def close(self) -> None:
        self.pool.close()

    def services(self, character: Character) -> Services:
        return Services(stt=self._stt(), llm=self._llm(character), tts=self._tts(character))

    def voice(self, wish: str | Tuning | EndpointVoice | None) -> Voice:
        """One of the voices that run here.

        Raises:
            ValueError: there is no such voice.
        """
        assert self.voices is not None, "the voices are an endpoint's"
        return self.voices.voice(wish)

    @property
    def speech(self) -> Speech:
        """For what is spoken outside of conversations."""
        caller = self.callers.get("tts")
        return Speech(self.tts, self.speak, caller and voice_server(self.tts, caller.endpoint))

    def speak(self, voice: dict[str, Any], text: str) -> tuple[Sound, int]:
        """Sound of a text in a character's `voice`, and its samples a second; takes long, for a thread.

        Raises:
            ValueError: there is no such voice, or the endpoint does not speak; the message says why.
        """
        if self.tts == "openai":
            endpoint = self.callers["tts"].endpoint
            chosen = endpoint_voice(endpoint, voice_among(voice or None, self.tts))
            return spoken(endpoint, chosen, text, self.sample_rate), self.sample_rate
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
        voice = endpoint_voice(caller.endpoint, voice_for(character, self.tts))
        return EndpointTTS(caller, voice=voice, sample_rate=self.sample_rate)


def endpoint_voice(endpoint: Endpoint, wish: str | Tuning | EndpointVoice | None) -> EndpointVoice:
    """A voice that was made there or is described; else the endpoint's for all characters, or the one that is named."""
    if isinstance(wish, EndpointVoice):
        return wish
    return EndpointVoice(name=endpoint.voice or str(wish or OPENAI_VOICE))
