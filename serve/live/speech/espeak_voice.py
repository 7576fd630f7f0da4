"""espeak-ng through ctypes: speech, and phonemes that drive other voices. GPL-3, loaded at run time only."""

import ctypes
import threading
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float

from gwm.optional import optional_module

COMMAND = "pip install espeakng-loader==0.2.4"
# Constants of espeak-ng's speak_lib.h, API version 12.
SYNCHRONOUS, END_AND_CLAUSES, UTF8, IPA = 2, 0, 1, 2
RATE, PITCH, RANGE = 1, 3, 4
NO_EXIT = 0x8000  # an error must not end the whole server
_LOCK = threading.Lock()  # the library exists once in a process
_CALLBACK = ctypes.CFUNCTYPE(ctypes.c_int, ctypes.POINTER(ctypes.c_short), ctypes.c_int, ctypes.c_void_p)


class Espeak:
    """The library, which exists once in a process; calls wait for each other.

    Raises:
        MissingPackageError: espeakng-loader is not installed.
        RuntimeError: the library does not start.
    """

    def __init__(self) -> None:
        loader = optional_module("espeakng_loader", COMMAND)
        self._library = ctypes.CDLL(loader.get_library_path())
        self._parts: list[Float[np.ndarray, " t"]] = []
        self._callback = _CALLBACK(self._collect)  # kept: the library holds only a pointer
        folder = loader.get_data_path().encode()
        self._variants = Path(loader.get_data_path()) / "voices" / "!v"
        self.sample_rate = int(self._library.espeak_Initialize(SYNCHRONOUS, 0, folder, NO_EXIT))
        if self.sample_rate <= 0:
            raise RuntimeError(f"espeak-ng did not start with data in {folder.decode()}. Install it again: {COMMAND}")
        self._library.espeak_TextToPhonemes.restype = ctypes.c_char_p

    def speak(self, text: str, *, voice: str, words_per_minute: int, pitch: int) -> Float[np.ndarray, " t"]:
        """Sound in [-1, 1] at `sample_rate`; pitch 0..100, 50 is the voice's own.

        Raises:
            ValueError: there is no such voice.
        """
        data = text.encode()
        with _LOCK:
            self._use(voice)
            self._library.espeak_SetParameter(RATE, words_per_minute, 0)
            self._library.espeak_SetParameter(PITCH, pitch, 0)
            self._parts = []
            self._library.espeak_SetSynthCallback(self._callback)  # of this object: another one may have set its own
            self._library.espeak_Synth(data, len(data) + 1, 0, END_AND_CLAUSES, 0, UTF8, None, None)
            return np.concatenate([*self._parts, np.zeros(0, np.float32)])

    def phonemes(self, clause: str, *, voice: str) -> str:
        """IPA of one clause, without its punctuation.

        Raises:
            ValueError: there is no such voice.
        """
        pointer = ctypes.c_char_p(clause.encode())
        found = []
        with _LOCK:
            self._use(voice)
            while pointer.value:  # the library moves the pointer past what it has read, and to NULL at the end
                found.append(self._library.espeak_TextToPhonemes(ctypes.byref(pointer), UTF8, IPA).decode())
        return " ".join(found)

    def check_voice(self, voice: str) -> None:
        """Check that espeak-ng has this voice and its variant.

        Raises:
            ValueError: there is no such voice.
        """
        with _LOCK:
            self._use(voice)
        variant = voice.partition("+")[2]  # the library speaks without one that it does not know
        if variant and not (self._variants / variant).is_file():
            known = ", ".join(sorted(path.name for path in self._variants.iterdir()))
            raise ValueError(f"voice={voice!r}: after the + must be one of espeak-ng's variants: {known}.")

    def _use(self, voice: str) -> None:
        if self._library.espeak_SetVoiceByName(voice.encode()) != 0:
            raise ValueError(
                f"voice={voice!r} must be one of espeak-ng's, such as en-us, en-us+f3, en-gb-x-rp, de or fr."
            )

    def _collect(self, samples: Any, count: int, events: int | None) -> int:
        if count > 0:
            self._parts.append(np.ctypeslib.as_array(samples, (count,)).astype(np.float32) / 2**15)
        return 0
