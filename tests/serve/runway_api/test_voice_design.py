"""A voice is chosen by the words of a description, or by the speaker of a sample; a preview is an MP3."""

import io

import av
import numpy as np
import pytest

from gwm.media.mp3 import to_mp3
from serve.live.speech.voice_measures import median_pitch
from serve.live.speech.voice_servers import Speech
from serve.runway_api.voices import designed, nearest_to
from tests.serve.runway_api.api_kit import hum

RATE = 24_000


def buzz(hertz: float, seconds: float = 1.0) -> np.ndarray:
    """A voice of ten harmonics."""
    times = np.arange(round(seconds * RATE)) / RATE
    return sum(np.sin(2 * np.pi * hertz * number * times) / number for number in range(1, 11)).astype(np.float32) / 3


@pytest.mark.parametrize("hertz", [80, 120, 210, 330])
def test_the_pitch_of_a_known_tone_is_found_within_a_half_semitone(hertz: float):
    assert abs(12 * np.log2(median_pitch(buzz(hertz), RATE) / hertz)) < 0.5


@pytest.mark.parametrize("sound", [np.zeros(RATE), np.random.default_rng(0).normal(0, 0.1, RATE), np.zeros(10)])
def test_nobody_is_heard_in_silence_and_noise(sound: np.ndarray):
    with pytest.raises(ValueError, match="sample"):
        nearest_to(sound.astype(np.float32), RATE, Speech("kokoro", hum))


def test_a_design_has_a_voice_of_every_kind_and_says_why():
    design = designed("A British woman of forty years", Speech("kokoro", hum))
    assert set(design.wish) == {"piper", "kokoro", "espeak", "openai"}
    assert str(design.wish["kokoro"]).startswith("bf_") and "en-gb-x-rp+f" in design.wish["espeak"]
    assert "fits best: female; British" in design.description
    assert designed("Somebody who sounds like anybody", Speech("piper", hum)).description.endswith("or gender.")
    assert "nothing more is known" in designed("A deep old man", Speech("openai", hum)).description


def test_a_preview_is_an_mp3_of_the_same_length_and_pitch():
    sound = buzz(150, 2.0)
    with av.open(io.BytesIO(to_mp3(sound, RATE)), format="mp3") as container:
        heard = np.concatenate([frame.to_ndarray()[0] for frame in container.decode(audio=0)])
    assert abs(len(heard) - len(sound)) < 0.1 * RATE
    assert abs(median_pitch(heard.astype(np.float32), RATE) - 150) < 2
