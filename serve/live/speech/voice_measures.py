"""What each voice is like, measured once: pitch, pace, brightness, who it sounds like."""

import json
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float

from serve.live.avatar.voice_buffers import Sound
from serve.live.speech.speaker import SpeakerEncoder
from serve.live.speech.voices import Voice

MEASURED = Path(__file__).parents[3] / "weights" / "voices" / "measured.json"
SENTENCES = (
    "Nobody knew how the boat had got there, but all of us thought it was a joy to look at it.",
    "Please call me tomorrow morning, and then we can talk about your plan for the garden.",
)
SYLLABLES = 23 + 21
FRAME_S, STEP_S, LOWEST_HZ, HIGHEST_HZ = 0.04, 0.01, 60.0, 420.0
VOICED, LOUD = 0.5, 0.1  # minimum autocorrelation of a voiced frame; minimum share of the loudest frame's RMS
FEMALE_HZ = 155.0  # pitch from which a voice of unknown gender is called a woman's
SPOKEN = 0.03  # share of the peak above which there is speech


@dataclass(frozen=True, slots=True)
class MeasuredVoice:
    """A voice that runs here."""

    tts: str
    voice: str | dict[str, Any]  # as a character's `voice:` names it for this `tts`
    accent: str  # British or American, as its makers name it
    gender: str  # female or male; of a tuned voice by its pitch
    pitch_hz: float  # median
    pitch_range: float  # semitones, from the 10th to the 90th percentile of voiced frames
    syllables_per_s: float
    brightness_hz: int  # centre of the spectrum of loud frames
    speaker: tuple[int, ...]  # d-vector, in thousandths

    @property
    def embedding(self) -> Float[np.ndarray, "256"]:
        vector = np.array(self.speaker, float)
        return vector / np.linalg.norm(vector)

    @property
    def label(self) -> str:
        """Its name for people."""
        if isinstance(self.voice, str):
            return self.voice
        name = self.voice.get("name", "joe")
        return f"{name} {self.voice.get('semitones', 0):+g} semitones"


@cache
def measured_voices(path: Path = MEASURED) -> tuple[MeasuredVoice, ...]:
    """Raises: FileNotFoundError: the checkout is not whole."""
    if not path.is_file():
        raise FileNotFoundError(f"{path} is missing. Make it with: python -m serve.voices measure=true")
    rows = json.loads(path.read_text())["voices"]
    return tuple(MeasuredVoice(**row | {"speaker": tuple(row["speaker"])}) for row in rows)


def write_measured(voices: list[MeasuredVoice], path: Path = MEASURED) -> None:
    """One voice a line."""
    rows = ",\n".join(json.dumps(asdict(voice)) for voice in voices)
    path.write_text(f'{{"sentences": {json.dumps(SENTENCES)}, "voices": [\n{rows}\n]}}\n')


def measure(speaking: Voice, encoder: SpeakerEncoder, **named: Any) -> MeasuredVoice:
    """named: the fields that are not measured; a gender of None is that of the pitch."""
    sounds, rate = [speaking.speak(sentence) for sentence in SENTENCES], speaking.sample_rate
    sound = np.concatenate(sounds)
    pitches = np.array(list(_pitches(sound, rate)))
    pitch = float(np.median(pitches))
    named["gender"] = named["gender"] or ("female" if pitch > FEMALE_HZ else "male")
    low, high = np.percentile(pitches, (10, 90))
    return MeasuredVoice(
        pitch_hz=round(pitch, 1),
        pitch_range=round(float(12 * np.log2(high / low)), 1),
        syllables_per_s=round(SYLLABLES / sum(spoken_s(one, rate) for one in sounds), 2),
        brightness_hz=round(brightness(sound, rate)),
        speaker=tuple(round(1_000 * float(x)) for x in encoder.embed(sound, rate)),
        **named,
    )


def spoken_s(sound: Sound, sample_rate: int) -> float:
    """Seconds from the first to the last sample that is loud."""
    loud = np.flatnonzero(np.abs(sound) > SPOKEN * np.abs(sound).max())
    return (loud[-1] - loud[0] + 1) / sample_rate if len(loud) else 0.0


def brightness(sound: Sound, sample_rate: int) -> float:
    """Centre of the amplitude spectrum of loud frames, in Hz, up to 8 kHz whatever the rate."""
    size = round(FRAME_S * sample_rate)
    frames = sound[: len(sound) // size * size].reshape(-1, size)
    loudness = np.sqrt((frames**2).mean(axis=1))
    frames = frames[loudness > LOUD * loudness.max()]
    hertz = np.fft.rfftfreq(size, 1 / sample_rate)
    spectrum = np.abs(np.fft.rfft(frames * np.hanning(size))).sum(axis=0)[hertz <= 8_000]
    return float((spectrum * hertz[hertz <= 8_000]).sum() / spectrum.sum())


def median_pitch(sound: Sound, sample_rate: int) -> float:
    """Median over voiced frames of the lag with the largest normalised autocorrelation, in Hz.

    Raises:
        ValueError: no frame is voiced.
    """
    if len(sound) < round(FRAME_S * sample_rate) + round(sample_rate / LOWEST_HZ):
        raise ValueError("The sample is too short. Send at least a second of one person who speaks.")
    pitches = list(_pitches(sound, sample_rate))
    if not pitches:
        raise ValueError("Nobody is heard in this sample. Send some seconds of one person who speaks.")
    return float(np.median(pitches))


def _pitches(sound: Sound, sample_rate: int) -> Iterator[float]:
    size, step = round(FRAME_S * sample_rate), round(STEP_S * sample_rate)
    first, last = round(sample_rate / HIGHEST_HZ), round(sample_rate / LOWEST_HZ)
    frames = np.lib.stride_tricks.sliding_window_view(sound.astype(np.float64), size + last)[::step]
    frames = frames - frames.mean(axis=1, keepdims=True)
    loudness = np.sqrt((frames**2).mean(axis=1))
    for frame in frames[loudness > max(LOUD * loudness.max(), 1e-4)]:
        begin, lags = frame[:size], np.lib.stride_tricks.sliding_window_view(frame, size)[: last + 1]
        scale = np.linalg.norm(begin) * np.linalg.norm(lags, axis=1) + 1e-9
        likeness = (lags @ begin) / scale
        best = likeness[first : last + 1].max()
        if best > VOICED:
            # The smallest lag that is nearly as good: twice the period fits as well as the period.
            lag = first + int(np.argmax(likeness[first : last + 1] > 0.95 * best))
            while lag < last and likeness[lag + 1] > likeness[lag]:
                lag += 1
            yield sample_rate / lag
