"""A voice is chosen by the words of a description, or by the pitch of a sample."""

import io

import av
import numpy as np
import pytest

from serve.runway_api.voices import LOCAL_HZ, designed, median_pitch, nearest, to_mp3

RATE = 24_000


def buzz(hertz: float, seconds: float = 1.0) -> np.ndarray:
    """A voice of ten harmonics."""
    times = np.arange(round(seconds * RATE)) / RATE
    return sum(np.sin(2 * np.pi * hertz * number * times) / number for number in range(1, 11)).astype(np.float32) / 3


@pytest.mark.parametrize("hertz", [80, 120, 210, 330])
def test_the_pitch_of_a_known_tone_is_found_within_a_half_semitone(hertz: float):
    assert abs(12 * np.log2(median_pitch(buzz(hertz), RATE) / hertz)) < 0.5


def test_the_nearest_voice_is_as_many_semitones_away_as_the_sample():
    design, pitch = nearest(buzz(LOCAL_HZ * 2 ** (5 / 12)), RATE)
    assert abs(design.semitones - 5) < 0.5 and abs(pitch - LOCAL_HZ * 2 ** (5 / 12)) < 4


@pytest.mark.parametrize("sound", [np.zeros(RATE), np.random.default_rng(0).normal(0, 0.1, RATE), np.zeros(10)])
def test_nobody_is_heard_in_silence_and_noise(sound: np.ndarray):
    with pytest.raises(ValueError, match="sample"):
        nearest(sound.astype(np.float32), RATE)


def test_words_say_how_high_and_how_fast():
    old, child = designed("A deep voice of an old man, slow and calm."), designed("An excited young girl")
    assert old.semitones < 0 < child.semitones and old.speed < 1 < child.speed
    assert "low" in old.description and "slow" in old.description
    assert designed("A British woman of forty years").wish["espeak"] == "en-gb-x-rp+f2"
    assert designed("Somebody who sounds like anybody") == designed("A person without any quality")


def test_a_preview_is_an_mp3_of_the_same_length_and_pitch():
    sound = buzz(150, 2.0)
    with av.open(io.BytesIO(to_mp3(sound, RATE)), format="mp3") as container:
        heard = np.concatenate([frame.to_ndarray()[0] for frame in container.decode(audio=0)])
    assert abs(len(heard) - len(sound)) < 0.1 * RATE
    assert abs(median_pitch(heard.astype(np.float32), RATE) - 150) < 2
