"""Speech with exact phoneme times from espeak-ng.

espeak-ng is GPL-3: it is never linked or shipped, only loaded at run time from the optional package `espeakng-loader`.
"""

import _ctypes
import ctypes
import shutil
from dataclasses import dataclass, field
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TypeAlias

import numpy as np
from jaxtyping import Float
from scipy.signal import resample_poly

from data.speech.sentences import Split
from gwm.clock import SAMPLE_RATE

ESPEAK_RATE = 22_050
UP, DOWN = 160, 147  # 22050 * 160 / 147 = 24000
LOUDNESS_RMS, PEAK = 0.1, 0.95  # every utterance is as loud as this allows; the timbres differ by 16 dB

Phoneme: TypeAlias = tuple[str, float, float]  # IPA symbol ("" for silence), start and end in seconds

# Each accent takes each timbre. Left out: whispers, robots, echoes and klatt voices, whose spectra hide the vowels.
ACCENTS = ("en-us", "en-us-nyc", "en-gb-x-rp", "en-gb-scotland", "en-gb-x-gbclan", "en-gb-x-gbcwmd", "en-029")
TIMBRES = (
    "f1", "f2", "f3", "f4", "f5", "m1", "m2", "m3", "m4", "m5", "m6", "m7", "m8",
    "Alex", "Alicia", "Andrea", "Andy", "Annie", "Denis", "Diogo", "Gene", "Henrique", "Hugo", "Lee", "Mario",
    "Michael", "Mike", "adam", "anika", "aunty", "belinda", "benjamin", "boris", "david", "edward2", "grandma",
    "grandpa", "gustave", "ian", "john", "linda", "max", "michel", "miguel", "norbert", "pablo", "pedro", "quincy",
    "rob", "robert", "sandro", "shelby", "steph", "travis", "victor", "zac",
)  # fmt: skip
VOICES = tuple(f"{accent}+{timbre}" for accent in ACCENTS for timbre in TIMBRES)


def voices_of(split: Split) -> tuple[str, ...]:
    """Voices that are heard in one split and in no other: of ten timbres one is for val and one for test."""
    split_at: dict[int, Split] = {8: "val", 9: "test"}
    timbres = [timbre for place, timbre in enumerate(TIMBRES) if split_at.get(place % 10, "train") == split]
    return tuple(f"{accent}+{timbre}" for accent in ACCENTS for timbre in timbres)


@dataclass(frozen=True, slots=True)
class Speech:
    """Mono speech at 24 kHz; its phonemes follow each other without gaps from 0 to its end."""

    samples: Float[np.ndarray, " t"]
    phonemes: list[Phoneme]

    @property
    def duration_s(self) -> float:
        return len(self.samples) / SAMPLE_RATE


class _EventId(ctypes.Union):
    _fields_ = [("number", ctypes.c_int), ("name", ctypes.c_char_p), ("string", ctypes.c_char * 8)]


class _Event(ctypes.Structure):
    """`espeak_EVENT` of speak_lib.h."""

    _fields_ = [
        ("type", ctypes.c_int),
        ("unique_identifier", ctypes.c_uint),
        ("text_position", ctypes.c_int),
        ("length", ctypes.c_int),
        ("audio_position", ctypes.c_int),  # milliseconds
        ("sample", ctypes.c_int),
        ("user_data", ctypes.c_void_p),
        ("id", _EventId),
    ]


# Constants of espeak-ng's speak_lib.h.
_SYNCHRONOUS, _PHONEME_EVENTS, _PHONEME_IPA, _DONT_EXIT, _UTF8 = 2, 1, 2, 0x8000, 1
_LIST_TERMINATED, _EVENT_PHONEME = 0, 7
_RATE, _PITCH, _PITCH_RANGE = 1, 3, 4
_SYNTH_CALLBACK = ctypes.CFUNCTYPE(ctypes.c_int, ctypes.POINTER(ctypes.c_short), ctypes.c_int, ctypes.POINTER(_Event))


@dataclass(slots=True)
class _Recorder:
    """Collects what one utterance sends to espeak's callback."""

    pcm: list[np.ndarray] = field(default_factory=list)
    marks: list[tuple[float, str]] = field(default_factory=list)  # start in seconds, IPA

    def receive(self, wave, num_samples: int, events) -> int:
        if num_samples > 0:
            self.pcm.append(np.ctypeslib.as_array(wave, (num_samples,)).copy())
        i = 0
        while events[i].type != _LIST_TERMINATED:
            if events[i].type == _EVENT_PHONEME:
                ipa = bytes(events[i].id.string).split(b"\0")[0].decode("utf-8", "ignore")
                self.marks.append((events[i].audio_position / 1000, ipa))
            i += 1
        return 0

    def speech(self) -> Speech:
        raw = np.concatenate(self.pcm).astype(np.float32) / 32768
        samples = resample_poly(raw, UP, DOWN)
        samples *= min(LOUDNESS_RMS / np.sqrt(np.square(samples).mean()), PEAK / np.abs(samples).max())
        end = len(samples) / SAMPLE_RATE
        starts = [min(start, end) for start, _ in self.marks]
        spans = zip(["", *(ipa for _, ipa in self.marks)], [0.0, *starts], [*starts, end])
        return Speech(samples.astype(np.float32), [(ipa, start, stop) for ipa, start, stop in spans if stop > start])


@cache
def _private_folder() -> TemporaryDirectory[str]:
    """Holds a copy of the library for this process; deleted when the process ends.

    Closing a library forgets its state only if nobody else in the process has the same file open.
    """
    import espeakng_loader  # optional and GPL: only in this file

    folder = TemporaryDirectory(prefix="gwm-espeak-")
    shutil.copy(espeakng_loader.get_library_path(), folder.name)
    return folder


def say(text: str, *, voice: str, rate_wpm: int = 165, pitch: int = 50, pitch_range: int = 50) -> Speech:
    """Synthesise `text`; the same arguments give the same samples in any process and any order.

    espeak keeps its oscillator phase and its random numbers between utterances, and no call resets them, so the
    library is loaded anew for each one (7 ms for 4 s of speech, 2-core Xeon, 2026-11).

    Args:
        voice: accent, "+", timbre; one of `VOICES`.
        rate_wpm: words a minute, 80 to 450.
        pitch: 0 to 99, 50 is the voice's own.
        pitch_range: 0 (monotone) to 99.

    Raises:
        ValueError: text without letters, or a voice that espeak does not have.
        RuntimeError: `espeakng-loader` is not installed.
    """
    if not any(c.isalnum() for c in text):
        raise ValueError(f"text={text!r} must contain a letter or a digit: there is nothing to pronounce in it.")
    if find_spec("espeakng_loader") is None:
        raise RuntimeError("espeakng-loader is missing: the embedded voices need it. Run: pip install 'gwm[data]'")
    import espeakng_loader

    library = ctypes.CDLL(str(Path(_private_folder().name) / Path(espeakng_loader.get_library_path()).name))
    recorder = _Recorder()
    callback = _SYNTH_CALLBACK(recorder.receive)  # must outlive the call: espeak keeps only the pointer
    try:
        options = _PHONEME_EVENTS | _PHONEME_IPA | _DONT_EXIT
        rate = library.espeak_Initialize(_SYNCHRONOUS, 0, str(espeakng_loader.get_data_path()).encode(), options)
        if rate != ESPEAK_RATE:
            raise RuntimeError(f"espeak_Initialize returned {rate}, expected its sample rate {ESPEAK_RATE}.")
        library.espeak_ng_SetRandSeed(ctypes.c_long(1))  # else the clock seeds the breath noise
        library.espeak_SetSynthCallback(callback)
        if library.espeak_SetVoiceByName(voice.encode()) != 0:
            raise ValueError(f"voice={voice!r} must be an accent and timbre of data.speech.espeak.VOICES.")
        for parameter, value in ((_RATE, rate_wpm), (_PITCH, pitch), (_PITCH_RANGE, pitch_range)):
            library.espeak_SetParameter(parameter, value, 0)
        encoded = text.encode()
        library.espeak_Synth(encoded, len(encoded) + 1, 0, 0, 0, _UTF8, None, None)
        library.espeak_Synchronize()
    finally:
        library.espeak_Terminate()
        _ctypes.dlclose(library._handle)
    return recorder.speech()
