"""Runway's preset voices, as espeak speaks them here."""

import itertools

import numpy as np
import pytest

from serve.live.speech.espeak_voice import Espeak
from serve.live.speech.voice_choice import ranked
from serve.live.speech.voice_measures import measured_voices, median_pitch
from serve.live.speech.voices import EspeakVoice, Tuning, voice_among
from serve.runway_api.presets import VOICE_PRESETS

TEXT = "Hello there, how are you?"


@pytest.fixture(scope="module")
def spoken() -> dict[str, tuple[np.ndarray, float]]:
    """The sound of each preset, and its pitch in Hz."""
    library, found = Espeak(), {}
    for name, preset in VOICE_PRESETS.items():
        voice = EspeakVoice(library, name=str(voice_among(preset.wish, "espeak")))
        sound = voice.speak(TEXT)
        found[name] = sound, median_pitch(sound, voice.sample_rate)
    return found


def test_no_two_presets_sound_the_same(spoken: dict[str, tuple[np.ndarray, float]]):
    for first, second in itertools.combinations(spoken, 2):
        assert not np.array_equal(spoken[first][0], spoken[second][0]), (first, second)


def test_women_are_heard_higher_than_men(spoken: dict[str, tuple[np.ndarray, float]]):
    women = [spoken[name][1] for name in ("clara", "mia", "luna", "victoria", "aurora", "petra")]
    men = [spoken[name][1] for name in ("vincent", "drew", "felix", "jasper", "david", "roman")]
    assert min(women) > 1.4 * max(men)


@pytest.mark.parametrize("who", ["An American man", "An American woman", "A British man", "A British woman"])
def test_every_designed_voice_can_be_spoken(who: str):
    wish = ranked(f"{who} of forty years", "espeak")[0].wish
    assert len(EspeakVoice(Espeak(), name=str(wish)).speak(TEXT)) > 1_000


def test_kokoros_presets_are_thirty_voices_of_the_gender_of_their_names():
    measured = {voice.label: voice for voice in measured_voices() if voice.tts == "kokoro"}
    chosen = {name: voice_among(preset.wish, "kokoro") for name, preset in VOICE_PRESETS.items()}
    assert len({str(voice) for voice in chosen.values()}) == 30
    names = {name: str(voice.name if isinstance(voice, Tuning) else voice) for name, voice in chosen.items()}
    women = {name for name, voice in names.items() if measured[voice].gender == "female"}
    assert {"clara", "mia", "luna", "victoria", "emma"} <= women and not {"vincent", "david", "roman", "leo"} & women
    assert "British woman" in VOICE_PRESETS["emma"].description("kokoro")
