"""The two voices on their way to the engine: what the character will say, and what it hears."""

from collections import deque
from dataclasses import replace

import numpy as np
from jaxtyping import Float

from serve.live.avatar.playout import Cue

Sound = Float[np.ndarray, " t"]
Ahead = Float[np.ndarray, " t_ahead"]  # of a chunk and its lookahead


class SpeechQueue:
    """Speech still to be played, silence behind it, and cues at positions in it.

    Each sample is copied once, in however many pieces it comes.
    """

    def __init__(self) -> None:
        self.said_samples = self.taken_samples = 0  # since the start of the queue
        self._parts: deque[Sound] = deque()
        self._cues: list[Cue] = []

    @property
    def waiting_samples(self) -> int:
        """That were said and not taken yet."""
        return self.said_samples - self.taken_samples

    def say(self, voice: Sound) -> None:
        self._parts.append(voice.astype(np.float32))
        self.said_samples += len(voice)

    def cue(self, cue: Cue) -> None:
        """Add a cue; its sample is counted since the start of the queue. One that is already past comes at once."""
        self._cues.append(cue)

    def take(self, samples: int) -> tuple[Sound, list[Cue]]:
        """The next samples and the cues within them, counted from the first of these samples."""
        start, voice = self.taken_samples, np.zeros(samples, np.float32)
        end = min(start + samples, self.said_samples)
        while self.taken_samples < end:
            part = self._parts.popleft()
            at, room = self.taken_samples - start, end - self.taken_samples
            voice[at : at + len(part)] = part[:room]
            if len(part) > room:
                self._parts.appendleft(part[room:])
            self.taken_samples += min(len(part), room)
        due = [replace(cue, sample=max(cue.sample - start, 0)) for cue in self._cues if cue.sample <= end]
        self._cues = [cue for cue in self._cues if cue.sample > end]
        return voice, sorted(due, key=lambda cue: cue.sample)

    def peek(self, samples: int) -> Sound:
        """The next samples, which stay; silence behind what is known."""
        voice, at = np.zeros(samples, np.float32), 0
        for part in self._parts:
            if at == samples:
                break
            piece = part[: samples - at]
            voice[at : at + len(piece)] = piece
            at += len(piece)
        return voice

    def clear(self) -> None:
        """Remove everything that is queued."""
        self.said_samples = self.taken_samples
        self._parts.clear()
        self._cues = []


class MicBuffer:
    """The latest sound of the microphone; samples beyond `limit_samples` are dropped, the oldest first."""

    def __init__(self, *, limit_samples: int) -> None:
        self.limit_samples = limit_samples
        self._rest = np.zeros(0, np.float32)

    def push(self, voice: Sound) -> None:
        self._rest = np.concatenate([self._rest, voice.astype(np.float32)])[-self.limit_samples :]

    def take(self, samples: int) -> Sound:
        """The oldest samples that are known; silence where too few have arrived."""
        voice, self._rest = self._rest[:samples], self._rest[samples:]
        return np.pad(voice, (0, samples - len(voice)))
