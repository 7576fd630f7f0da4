"""Prompts at their times, and streams that advance without sound."""

import logging
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
import torch
from PIL import Image

from gwm.condition.inputs import Conditions
from gwm.media.pixels import to_tensor
from gwm.media.video import read_video, write_video
from gwm.rollout import Rollout
from gwm.wan.encoders import UMT5
from serve.acts import applied_at
from serve.artifact import Artifact, load_artifact
from serve.engine import Engine
from serve.generate import generate
from serve.pipeline import Pipeline
from serve.request import ClipRequest
from tests.serve.world import ACTIONS, TEXT, world, world_contract
from tests.wan import save_text_encoder

TOKENS = 4  # of every text given to an engine directly


@pytest.fixture(params=[1, 2], ids=["chunk_of_1", "chunk_of_2"])
def sea(request: pytest.FixtureRequest, tmp_path: Path) -> Artifact:
    return load_artifact(world(tmp_path, chunk_frames=request.param), device="cpu")


@pytest.fixture
def place(tmp_path: Path) -> Path:
    """Also the text encoder is in the artifact's folder."""
    return save_text_encoder(world(tmp_path), width=TEXT)


@pytest.fixture
def asked(place: Path, portrait: np.ndarray) -> dict[str, Any]:
    """What every request for a clip of the world has."""
    Image.fromarray(portrait).save(place.parent / "sea.png")
    parts = {"artifact": str(place), "image": str(place.parent / "sea.png"), "crop": False, "seed": 3}
    return parts | {"out": str(place.parent / "sea.mp4")}


def tokens(folder: str, text: str) -> torch.Tensor:
    """As training reads a caption: half precision, zeros up to 512."""
    own = UMT5(folder)(text).half().float()
    return torch.cat([own, torch.zeros(512 - len(own), TEXT)])[None]


def switched(engine: Engine, portrait: np.ndarray, texts: dict[int, torch.Tensor], chunks: int) -> list[np.ndarray]:
    """Chunks of a stream whose caller sets each prompt itself before its chunk."""
    engine.start(portrait, texts.get(0))
    frames = []
    for chunk in range(chunks):
        if chunk and chunk in texts:
            assert engine.set_prompt(texts[chunk]).chunk == chunk
        frames.append(engine.step())
    return frames


@torch.no_grad()
def test_a_model_that_takes_no_sound_streams_what_its_rollout_makes(sea: Artifact, portrait: np.ndarray):
    """No sound is pushed, not even silence."""
    engine, size = Engine(sea, seed=3, text_tokens=TOKENS), sea.contract.pattern.chunk_frames
    engine.start(portrait)
    made = [engine.denoise(engine.take()).clone() for _ in range(3)]
    assert sea.no_text is not None
    text = torch.cat([sea.no_text, torch.zeros(TOKENS - len(sea.no_text), TEXT)])[None]
    frame = {"action": torch.zeros(1, size, 4 * len(ACTIONS))}
    condition, rollout = Conditions(frame=frame, tokens={"text": text}), Rollout(sea.dit, sea.contract)
    rollout.start(sea.vae.encode_reference(to_tensor(portrait)[None]).latent, condition, seed=3)
    for latents in made:
        assert torch.equal(latents, rollout.step(condition))


def test_a_stream_without_sound_ends_with_the_frame_that_is_asked_for(sea: Artifact, portrait: np.ndarray):
    engine = Engine(sea, seed=3, text_tokens=TOKENS)
    chunks = [frames for frames, _ in engine.stream(portrait, num_frames=17)]
    assert sum(map(len, chunks)) == 17 and not engine.ready
    with Pipeline(engine) as pipeline:
        again = [frames for frames, _ in engine.stream(portrait, num_frames=17, driver=pipeline)]
    assert np.array_equal(np.concatenate(chunks), np.concatenate(again))


def test_sound_for_a_model_that_takes_no_sound_is_refused(sea: Artifact, portrait: np.ndarray):
    engine = Engine(sea, seed=3, text_tokens=TOKENS)
    engine.start(portrait)
    with pytest.raises(ValueError, match="sound of 10 samples must not be pushed"):
        engine.push(*np.zeros((2, 10), np.float32))


def test_silence_follows_sound_that_ends_before_the_clip(artifact: Artifact, portrait: np.ndarray, voices: Any):
    agent, user = (voice[:9_400] for voice in voices)
    long, _ = Engine(artifact, seed=7).play(portrait, agent, user, num_frames=20)
    padded, _ = Engine(artifact, seed=7).play(portrait, *(np.pad(voice, (0, 10_600)) for voice in (agent, user)))
    assert len(long) == 20 and np.array_equal(long, padded)


def test_sound_beyond_the_clip_is_still_looked_ahead_to(artifact: Artifact, portrait: np.ndarray, voices: Any):
    whole, _ = Engine(artifact, seed=7).play(portrait, *voices)
    short, _ = Engine(artifact, seed=7).play(portrait, *voices, num_frames=8)
    assert len(short) == 8 and np.array_equal(short, whole[:8])


def test_a_prompt_never_comes_before_its_time():
    """A chunk of two latent frames lasts a third of a second."""
    rules = world_contract(chunk_frames=2)
    applied = [applied_at(rules, at_s) for at_s in (0.0, 0.01, 1 / 3, 0.34, 5.0)]
    assert [one.chunk for one in applied] == [0, 1, 1, 2, 15]
    assert [one.media_s for one in applied] == pytest.approx([0, 1 / 3, 1 / 3, 2 / 3, 5])


def test_timed_prompts_are_those_that_a_caller_sets_before_their_chunks(sea: Artifact, portrait: np.ndarray):
    """Also through the pipeline, which takes chunks before earlier ones are shown."""
    first, second, third = torch.randn(3, 1, TOKENS, TEXT)
    period_s = sea.contract.chunk_ms / 1000
    expected = switched(Engine(sea, seed=3, text_tokens=TOKENS), portrait, {0: first, 2: second, 5: third}, 7)
    texts = {0.0: first, 1.5 * period_s: second, 5 * period_s: third}
    num_frames = 7 * sea.contract.chunk_pixel_frames
    engine = Engine(sea, seed=3, text_tokens=TOKENS)
    made = [frames for frames, _ in engine.stream(portrait, num_frames=num_frames, prompts=texts)]
    assert np.array_equal(np.concatenate(made), np.concatenate(expected))
    with Pipeline(engine) as pipeline:
        made = [frames for frames, _ in engine.stream(portrait, num_frames=num_frames, prompts=texts, driver=pipeline)]
    assert np.array_equal(np.concatenate(made), np.concatenate(expected))


def test_a_new_stream_forgets_prompts_that_were_still_to_come(sea: Artifact, portrait: np.ndarray):
    engine, fresh = (Engine(sea, seed=3, text_tokens=TOKENS) for _ in range(2))
    engine.start(portrait)
    engine.set_prompt(torch.randn(1, TOKENS, TEXT), at_s=sea.contract.chunk_ms / 1000)
    expected = switched(fresh, portrait, {}, 3)
    assert np.array_equal(np.concatenate(switched(engine, portrait, {}, 3)), np.concatenate(expected))


def test_a_prompt_for_a_chunk_that_is_over_is_refused(sea: Artifact, portrait: np.ndarray):
    engine = Engine(sea, seed=3, text_tokens=TOKENS)
    switched(engine, portrait, {}, 2)
    with pytest.raises(ValueError, match=r"at_s=0.01 must be at least .* have been generated"):
        engine.set_prompt(torch.zeros(1, TOKENS, TEXT), at_s=0.01)


def test_the_command_shows_its_prompts_at_their_times(
    asked: dict[str, Any], portrait: np.ndarray, tmp_path: Path, caplog: pytest.LogCaptureFixture
):
    caplog.set_level(logging.INFO)
    prompts = [{"at": 0.5, "text": "woman talks"}, {"at": 0, "text": "a woman smiles"}]
    generate(ClipRequest(**asked, seconds=1, prompts=prompts))
    engine = Engine(load_artifact(asked["artifact"], device="cpu"), seed=3)
    texts = {0: tokens(asked["artifact"], "a woman smiles"), 3: tokens(asked["artifact"], "woman talks")}
    frames = switched(engine, portrait, texts, 6)
    write_video(tmp_path / "expected.mp4", np.concatenate(frames), None)
    assert np.array_equal(read_video(asked["out"])[0], read_video(tmp_path / "expected.mp4")[0])
    with av.open(asked["out"]) as container:
        assert len(container.streams.video) == 1 and not container.streams.audio
    receipt = (
        "prompt 'woman talks', asked for at 0.50 s, holds from chunk 3 at 0.50 s; recache of the chunks before: yes"
    )
    assert receipt in caplog.messages


def test_the_command_sets_numbers_at_their_times(asked: dict[str, Any], portrait: np.ndarray, tmp_path: Path):
    generate(ClipRequest(**asked, seconds=1, act=[{"at": 0.5, "left": None}, {"left": 1, "forward": -0.5}]))
    engine = Engine(load_artifact(asked["artifact"], device="cpu"), seed=3)
    engine.start(portrait)
    frames = []
    for chunk in range(6):
        engine.act({0: {"left": 1, "forward": -0.5}, 3: {"left": 0}}.get(chunk, {}))
        frames.append(engine.step())
    write_video(tmp_path / "expected.mp4", np.concatenate(frames), None)
    assert np.array_equal(read_video(asked["out"])[0], read_video(tmp_path / "expected.mp4")[0])


@pytest.mark.parametrize(
    ("settings", "rule"),
    [
        ({"act": {"up": 1}}, r"up=1 must be one of \['forward', 'left'\]"),
        ({"act": [{"at": 2, "left": 1}]}, r"act at=2 begins .* before the clip ends at 1\.00 s"),
        ({"seconds": None}, r"seconds=\.\.\. must be given"),
        ({"audio": "speech.wav"}, r"audio=speech\.wav must be left out: the model of .* takes no sound"),
        ({"image": None}, r"image=\.\.\. must be given: every stream of .* follows a reference image"),
        ({"negative_prompt": "rain"}, r"negative_prompt='rain' must be left out: .* is distilled"),
        ({"prompts": [{"at": 2, "text": "a"}]}, r"prompt at=2 would begin .* before the clip ends at 1\.00 s"),
        ({"prompts": [{"at": 0.4, "text": "a"}, {"at": 0.5, "text": "s"}]}, "two prompts begin with chunk 3"),
        ({"text_encoder": "NOWHERE", "prompt": "a"}, "NOWHERE must have text_encoder/"),
    ],
)
def test_what_the_model_cannot_follow_is_refused_by_name(asked: dict[str, Any], settings: dict[str, Any], rule: str):
    with pytest.raises((ValueError, FileNotFoundError), match=rule):
        generate(ClipRequest(**(asked | {"seconds": 1} | settings)))
    assert not Path(asked["out"]).exists()


def test_a_prompt_for_a_model_without_text_is_refused(folder: Path, asked: dict[str, Any]):
    with pytest.raises(ValueError, match=r"prompt='a' must be left out: the model of .* has no text condition"):
        generate(ClipRequest(**(asked | {"artifact": str(folder), "prompt": "a", "seconds": 1})))


def test_a_prompt_without_a_text_encoder_says_where_to_get_one(asked: dict[str, Any], place: Path):
    (place / "text_encoder").rename(place / "elsewhere")
    with pytest.raises(FileNotFoundError, match=r"text_encoder=\.\.\. must be given"):
        generate(ClipRequest(**asked, prompt="a", seconds=1))


@pytest.mark.parametrize(
    ("settings", "rule"),
    [
        ({"act": [{"at": "soon", "left": 1}]}, "act has .* may have at, a time of at least 0 seconds"),
        ({"seconds": 0.0}, r"seconds=0\.0 must be a finite number above 0"),
        ({"seconds": "two"}, r"seconds=two must be a finite number above 0"),
        ({"seconds": float("nan")}, "seconds=nan must be a finite number"),
        ({"prompt": "a", "prompts": [{"at": 1, "text": "b"}]}, "exclude each other"),
        ({"prompts": [{"text": "b"}]}, "must have entries of a time in seconds and a text"),
        ({"prompts": [{"at": "soon", "text": "b"}]}, "must have entries of a time in seconds and a text"),
        ({"prompts": [{"at": -1, "text": "b"}]}, "prompt at=-1 must be a finite number of seconds, at least 0"),
        ({"prompt": "  "}, "must have words"),
    ],
)
def test_settings_that_cannot_be_are_refused_before_anything_is_loaded(
    settings: dict[str, Any], rule: str, unchecked: None
):
    with pytest.raises(ValueError, match=rule):
        ClipRequest(artifact="NOWHERE", out="clip.mp4", **settings)
