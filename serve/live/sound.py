"""The two voices on their way to the engine: what the character will say, and what it hears."""

from dataclasses import replace

import numpy as np
from jaxtyping import Float

from serve.live.playout import Mark

Sound = Float[np.ndarray, " t"]


class Line:
    """What the character has still to say, silence where it has nothing to say, and marks along it."""

    def __init__(self) -> None:
        self.said_samples = 0  # since the start of the line, taken or not
        self._rest = np.zeros(0, np.float32)
        self._marks: list[Mark] = []

    @property
    def taken_samples(self) -> int:
        return self.said_samples - len(self._rest)

    def say(self, voice: Sound) -> None:
        self._rest = np.concatenate([self._rest, voice.astype(np.float32)])
        self.said_samples += len(voice)

    def mark(self, mark: Mark) -> None:
        """Add a mark; its sample is counted since the start of the line. One that is already past comes at once."""
        self._marks.append(mark)

    def take(self, samples: int) -> tuple[Sound, list[Mark]]:
        """The next samples and the marks within them, counted from the first of these samples."""
        start, voice = self.taken_samples, self._rest[:samples]
        self._rest = self._rest[samples:]
        end = start + len(voice)
        due = [replace(mark, sample=max(mark.sample - start, 0)) for mark in self._marks if mark.sample <= end]
        self._marks = [mark for mark in self._marks if mark.sample > end]
        return np.pad(voice, (0, samples - len(voice))), sorted(due, key=lambda mark: mark.sample)

    def clear(self) -> None:
        """Say nothing more of what was planned."""
        self.said_samples = self.taken_samples
        self._rest, self._marks = self._rest[:0], []


class Ear:
    """The latest sound of the other side; what is older than `limit_samples` is forgotten."""

    def __init__(self, *, limit_samples: int) -> None:
        self.limit_samples = limit_samples
        self._rest = np.zeros(0, np.float32)

    def hear(self, voice: Sound) -> None:
        self._rest = np.concatenate([self._rest, voice.astype(np.float32)])[-self.limit_samples :]

    def take(self, samples: int) -> Sound:
        """The oldest samples that are known; silence where too few have arrived."""
        voice, self._rest = self._rest[:samples], self._rest[samples:]
        return np.pad(voice, (0, samples - len(voice)))
