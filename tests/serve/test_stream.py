"""The object for Python against the engine that it drives, and the page that shows it."""

import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
import torch

from gwm.media.video import read_audio
from gwm.wan.encoders import UMT5
from serve.artifact import load_artifact
from serve.engine import Engine
from serve.request import read_portrait
from serve.samples import sample_path
from serve.stream import Stream
from tests.serve.world import TEXT, world
from tests.wan import save_text_encoder

ROOT = Path(__file__).parents[2]


@pytest.fixture
def place(tmp_path: Path) -> Path:
    return world(tmp_path)


def test_the_example_of_the_page_makes_what_the_engine_makes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Run as it is printed, with a second of speech."""
    (code,) = re.findall(r"```python\n(.+?)```", (ROOT / "docs" / "python.md").read_text(), re.DOTALL)
    assert len(code.splitlines()) <= 10
    (tmp_path / "PORTRAIT.jpg").symlink_to(sample_path("portrait"))
    soundfile.write(tmp_path / "SPEECH.mp3", read_audio(sample_path("speech"))[:24_000], 24_000)
    (tmp_path / "weights").symlink_to(ROOT / "weights")
    monkeypatch.chdir(tmp_path)
    names: dict[str, Any] = {}
    exec(code, names)
    engine = Engine(load_artifact("weights/character", device="cpu"), seed=0)
    expected, _ = engine.play(read_portrait("PORTRAIT.jpg", engine.framing, crop=True), read_audio("SPEECH.mp3"))
    made = np.stack(names["frames"])
    assert np.array_equal(made[: len(expected)], expected)


def test_frames_come_as_the_sound_does(folder: Path, portrait: np.ndarray, voices: tuple[np.ndarray, np.ndarray]):
    stream, (agent, user) = Stream(folder, seed=7, device="cpu"), voices
    stream.start(portrait)
    made = []
    for at in range(0, len(agent), 5_000):
        stream.push(agent[at : at + 5_000], user[at : at + 5_000])
        made += list(stream)
    stream.finish()
    made += list(stream)
    expected, _ = Engine(load_artifact(folder, device="cpu"), seed=7).play(portrait, agent, user)
    assert np.array_equal(np.stack(made)[: len(expected)], expected)


def test_what_is_taken_back_while_iterating_comes_again(folder: Path, portrait: np.ndarray):
    stream = Stream(folder, seed=7, undo_chunks=3, device="cpu")
    size = stream.engine.contract.chunk_pixel_frames
    stream.start(portrait)
    stream.push(np.random.default_rng(0).normal(0, 0.1, 4 * size * 1_000).astype(np.float32))
    stream.finish()
    made = []
    for frame in stream:
        made.append(frame)
        if len(made) == 2 * size + 1:  # one frame into the third chunk
            assert stream.rewind(2).chunk == 1
    chunks = np.split(np.stack([*made[: 2 * size], *made[2 * size + 1 :]]), [size, 2 * size, 3 * size, 4 * size])
    assert np.array_equal(chunks[1], chunks[2]) and np.array_equal(made[2 * size], chunks[3][0])
    assert len(made) == 5 * size + 1


def test_prompts_and_actions_hold_from_the_chunk_that_is_named(place: Path, portrait: np.ndarray):
    save_text_encoder(place, width=TEXT)
    stream = Stream(place, seed=3, device="cpu")
    stream.start(portrait, prompt="a woman")
    stream.finish(seconds=5 / 6)  # five chunks
    made = []
    for frame in stream:
        made.append(frame)
        if len(made) == 5:  # inside the second chunk
            assert stream.set_prompt("talks").chunk == stream.act({"left": 0.5}).chunk == 2
    engine = Engine(load_artifact(place, device="cpu"), seed=3)
    first, second = (UMT5(str(place))(text).half().float() for text in ("a woman", "talks"))
    first, second = (torch.cat([text, torch.zeros(512 - len(text), TEXT)])[None] for text in (first, second))
    engine.start(portrait, first)
    expected = []
    for chunk in range(5):
        if chunk == 2:
            engine.set_prompt(second)
            engine.act({"left": 0.5})
        expected.append(engine.step())
    assert np.array_equal(np.stack(made), np.concatenate(expected))


@pytest.mark.parametrize(
    ("numbers", "rule"),
    [
        ({"backward": 1.0}, r"backward=1.0 must be one of \['forward', 'left'\]"),
        ({"left": float("nan")}, r"left=nan must be a number in \[-10, 10\], or null"),
        ({"left": 11}, r"left=11 must be a number in \[-10, 10\]"),
        ({"left": True}, "left=True must be a number"),
        ({"left": "fast"}, "left='fast' must be a number"),
        ({"left": [1, 2, None]}, "left=None must be a number"),
        ({"left": []}, "left has 0 numbers, must have 1 to 240"),
    ],
)
def test_numbers_that_cannot_be_are_refused(
    place: Path, portrait: np.ndarray, numbers: Any, rule: str, unchecked: None
):
    stream = Stream(place, device="cpu")
    assert stream.controls == {"forward": (-10, 10), "left": (-10, 10)}
    stream.start(portrait)
    with pytest.raises(ValueError, match=rule):
        stream.act({"forward": 1, **numbers})
    assert not stream.engine.take()["action"].any()


def test_what_a_model_does_not_have_is_refused(folder: Path, portrait: np.ndarray):
    stream = Stream(folder, device="cpu")
    with pytest.raises(ValueError, match="prompt='rain' must be left out"):
        stream.start(portrait, prompt="rain")
    with pytest.raises(ValueError, match="left=1 must be left out: the model has no numbers"):
        stream.act({"left": 1})
