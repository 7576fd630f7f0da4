import _ctypes
import ctypes
import itertools

import espeakng_loader
import numpy as np
import pytest
from openfacefx import VISEMES

from data.actions import ACTION_NAMES
from data.speech import sentences, visemes
from data.speech.dialogue import converse
from data.speech.espeak import ACCENTS, TIMBRES, say, voices_of
from gwm.clock import FPS, SAMPLE_RATE

PANGRAM = "My mother bought five big apples from the farm, but nobody remembered the purple boat."


@pytest.fixture(scope="module")
def speech():
    return say(PANGRAM, voice="en-us+f2")


def test_the_same_words_give_the_same_samples_whatever_was_said_before(speech):
    """espeak keeps state between utterances; clips must not depend on the worker that made them."""
    say("Something else was said in between.", voice="en-gb-x-rp+m3", pitch=80)
    assert np.array_equal(say(PANGRAM, voice="en-us+f2").samples, speech.samples)


def test_the_same_words_give_the_same_samples_whoever_else_has_the_library_open(speech):
    """A voice of the live server keeps it open: closing it does not reset it then."""
    library = ctypes.CDLL(str(espeakng_loader.get_library_path()))
    try:
        again = [say(PANGRAM, voice="en-us+f2").samples for _ in range(2)]
    finally:
        _ctypes.dlclose(library._handle)
    assert all(np.array_equal(samples, speech.samples) for samples in again)


def test_phonemes_cover_the_audio_without_gaps(speech):
    edges = [speech.phonemes[0][1], *(end for _, _, end in speech.phonemes)]
    assert edges[0] == 0 and edges[-1] == pytest.approx(len(speech.samples) / SAMPLE_RATE, abs=1e-9)
    assert all(a[2] == b[1] for a, b in itertools.pairwise(speech.phonemes))


def test_vowels_are_where_the_phonemes_say(speech):
    """The loudest sound lies in a vowel, and a stop before its release is nearly silent: times are not shifted."""
    loudness = {ipa: [] for ipa, _, _ in speech.phonemes}
    for ipa, start, end in speech.phonemes:
        part = speech.samples[int(start * SAMPLE_RATE) : int(end * SAMPLE_RATE)]
        loudness[ipa].append(np.sqrt(np.square(part).mean()))
    vowels = [max(v) for ipa, v in loudness.items() if ipa.startswith("\u02c8")]
    assert min(vowels) > 3 * max(loudness["p"])


def test_the_rate_is_in_words_a_minute():
    slow, fast = (say(PANGRAM, voice="en-us+m3", rate_wpm=rate).duration_s for rate in (120, 180))
    assert 1.3 < slow / fast < 1.7 and 3.5 < fast < 6


@pytest.mark.parametrize("accent", ACCENTS)
def test_every_symbol_of_an_accent_has_a_viseme(accent):
    """The whole vocabulary, spoken once; an unknown symbol raises."""
    options = [option for options in sentences.GRAMMAR.values() for option in options]
    words = sorted({word for option in options for word in option.split() if "{" not in word})
    text = ". ".join(" ".join(words[i : i + 12]) for i in range(0, len(words), 12))
    names = {
        name.rstrip("01") for ipa, _, _ in say(text, voice=accent + "+m1").phonemes for name in visemes.to_arpabet(ipa)
    }
    assert names <= {"sil", *visemes.ARPABET.values()} and len(names) > 30


@pytest.mark.parametrize("timbre", TIMBRES)
def test_every_timbre_exists_and_speaks(timbre):
    spoken = say("Hello there.", voice="en-us+" + timbre)
    assert np.abs(spoken.samples).max() > 0.3 and 0.4 < spoken.duration_s < 2


def test_an_unknown_voice_is_refused():
    with pytest.raises(ValueError, match="voice='en-xx"):
        say("Hello.", voice="en-xx+f9")


def test_an_unknown_symbol_is_refused():
    with pytest.raises(ValueError, match="ARPABET"):
        visemes.to_arpabet("\u0298")


def test_lips_close_at_every_p_b_m(speech):
    """At the frame nearest to the middle of a bilabial the jaw is shut; between them it opens."""
    num_frames = int(speech.duration_s * FPS)
    jaw = visemes.mouth_actions(speech.phonemes, num_frames=num_frames, fps=FPS)[:, ACTION_NAMES.index("jawOpen")]
    middles = [(start + end) / 2 for ipa, start, end in speech.phonemes if ipa in ("p", "b", "m")]
    assert len(middles) >= 8
    nearest = [round(middle * FPS - 0.5) for middle in middles]
    assert jaw[nearest].max() < 0.05 < 0.4 < jaw.max()


def test_the_mouth_rests_in_silence(speech):
    """A silence is in the phonemes as one long segment; the mouth must still be shut through all of it."""
    end = speech.phonemes[-1][2]
    weights = visemes.mouth_visemes([*speech.phonemes, ("", end, end + 2)], num_frames=int((end + 2) * FPS), fps=FPS)
    assert weights[int((end + 0.35) * FPS) :, VISEMES.index("sil")].min() > 0.95


def test_the_mouth_follows_the_phonemes_without_lag(speech):
    """Opening correlates best with the loudness of the voice when the mouth leads by 0 to 3 frames."""
    num_frames = int(speech.duration_s * FPS)
    jaw = visemes.mouth_actions(speech.phonemes, num_frames=num_frames, fps=FPS)[:, ACTION_NAMES.index("jawOpen")]
    rms = np.sqrt(np.square(speech.samples[: num_frames * 1000].reshape(-1, 1000)).mean(axis=1))
    scores = {lag: np.corrcoef(jaw[6:-6], np.roll(rms, -lag)[6:-6])[0, 1] for lag in range(-6, 7)}
    assert 0 <= max(scores, key=scores.get) <= 3


def test_splits_share_no_sentence():
    drawn = {  # equal seeds on purpose: only the hash keeps them apart
        split: {sentences.sentence(np.random.default_rng(i), kind="question", split=split) for i in range(300)}
        for split in sentences.SPLIT_BUCKETS
    }
    for a, b in itertools.combinations(drawn.values(), 2):
        assert not a & b


def test_the_grammar_gives_thousands_of_sentences_of_at_most_14_words():
    rng = np.random.default_rng(0)
    drawn = [sentences.sentence(rng, kind="statement", split="train") for _ in range(1000)]
    assert len(set(drawn)) > 900 and {3, 8, 14} <= {len(text.split()) for text in drawn} <= set(range(3, 15))


def test_splits_share_no_voice_and_leave_none_out():
    timbres = {split: {voice.split("+")[1] for voice in voices_of(split)} for split in sentences.SPLIT_BUCKETS}
    assert set().union(*timbres.values()) == set(TIMBRES)
    assert sum(map(len, timbres.values())) == len(TIMBRES) and min(map(len, timbres.values())) >= 5


@pytest.mark.parametrize("split", sentences.SPLIT_BUCKETS)
def test_both_sides_of_a_conversation_have_voices_of_their_split(split, monkeypatch):
    heard = []
    monkeypatch.setattr("data.speech.dialogue.say", lambda text, **how: heard.append(how["voice"]) or say(text, **how))
    for seed in range(4):
        converse(np.random.default_rng(seed), num_frames=48, split=split)
    assert heard and set(heard) <= set(voices_of(split))
