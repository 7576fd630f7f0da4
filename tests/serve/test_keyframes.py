"""Streams that go towards pictures: the engine against the trainer's stream under the same known frames."""

import dataclasses
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
import torch
from PIL import Image

from data.batch import LatentBatch
from gwm.autoencoders.haar import HaarAutoencoder
from gwm.chunks import whole_clip
from gwm.condition.keyframes import with_keyframes
from gwm.contract import Contract
from gwm.dit import DiT
from gwm.media.framing import Framing
from gwm.media.pixels import to_tensor
from gwm.media.video import read_video, write_video
from gwm.weights import save_weights
from serve.acts import Applied
from serve.artifact import Artifact
from serve.engine import Engine
from serve.generate import generate
from serve.keyframes import TimedPicture, video_end
from serve.request import ClipRequest
from serve.samples import sample_path
from serve.stream import Stream
from tests.gwm.autoencoders.kit import tiny_motion
from tests.serve.conftest import randomised, tiny_contract
from tests.serve.test_engine import Voices, as_clip, denoised
from tests.serve.test_motion_artifact import motion_contract
from tests.tiny import keyframed
from train.networks import dit_header
from train.played import clip_batch, stream

CHUNKS = 6


@pytest.fixture(params=[1, 2], ids=["chunk_of_1", "chunk_of_2"])
def contract(request: pytest.FixtureRequest) -> Contract:
    """Of a model with the condition: what the fixtures around it train, export and load."""
    rules = tiny_contract(chunk_frames=request.param)
    return rules.replace(dit=keyframed(rules.dit))


one_chunk_length = pytest.mark.parametrize("contract", [2], indirect=True)


@pytest.fixture
def picture(portrait: np.ndarray) -> np.ndarray:
    return np.ascontiguousarray(255 - portrait[::-1])


def trainer_batch(artifact: Artifact, portrait: np.ndarray, voices: Voices) -> LatentBatch:
    return clip_batch([as_clip(artifact, portrait, voices)], artifact.vae, artifact.contract)[0]


def with_known(batch: LatentBatch, engine: Engine) -> LatentBatch:
    """The clip under the mask of training, in which the engine's known frames are known."""
    x0, known = batch.x0.clone(), torch.zeros(1, batch.x0.shape[1], dtype=torch.bool)
    for frame, latents in engine.timeline.keyframes.known.items():
        x0[0, frame], known[0, frame] = latents, True
    return replace(batch, conditions=with_keyframes(batch.condition, engine.contract.dit, x0, known).flat())


@torch.no_grad()
def test_a_stream_with_keyframes_is_the_masked_clip_to_the_bit(
    artifact: Artifact, portrait: np.ndarray, picture: np.ndarray, voices: Voices
):
    engine = Engine(artifact, seed=7)
    engine.start(portrait)
    applied = engine.keyframe(picture, at_s=0.5)
    engine.keyframe(portrait, at_s=0.7)
    size = artifact.contract.pattern.chunk_frames
    assert applied == Applied(3 // size, 0.5)
    batch = with_known(trainer_batch(artifact, portrait, voices), engine)
    assert batch.condition["keyframes"][0, :5].flatten(1).any(dim=1).all()
    engine.push(*voices)
    engine.finish()
    given, made = [], []
    while engine.ready:
        condition = engine.take()
        given.append(condition["keyframes"])
        made.append(engine.denoise(condition))
    assert torch.equal(torch.cat(given, dim=1), batch.condition["keyframes"])
    trained = stream(artifact.dit, artifact.contract, batch, num_frames=batch.x0.shape[1], seed=7)
    assert torch.equal(torch.cat(made, dim=1), trained)


@torch.no_grad()
def test_a_stream_without_keyframes_is_one_that_lost_them(artifact: Artifact, portrait: np.ndarray, voices: Voices):
    made = denoised(Engine(artifact, seed=7), portrait, voices)
    batch = trainer_batch(artifact, portrait, voices)
    known = torch.ones(1, batch.x0.shape[1], dtype=torch.bool)
    full = with_keyframes(batch.condition, artifact.contract.dit, batch.x0, known)
    dropped = replace(batch, conditions=full.dropped("keyframes").flat())
    for one in (batch, dropped):
        trained = stream(artifact.dit, artifact.contract, one, num_frames=batch.x0.shape[1], seed=7)
        assert torch.equal(made, trained)
    other = stream(
        artifact.dit, artifact.contract, replace(batch, conditions=full.flat()), num_frames=batch.x0.shape[1], seed=7
    )
    assert not torch.equal(made, other)


def steered(artifact: Artifact, portrait: np.ndarray, *pictures: tuple[np.ndarray, float, bool]) -> torch.Tensor:
    """Latents of CHUNKS chunks of silence, with pictures at their times."""
    engine = Engine(artifact, seed=7)
    engine.start(portrait)
    for shown, at_s, exact in pictures:
        engine.keyframe(shown, at_s=at_s, exact=exact)
    engine.finish(CHUNKS * artifact.contract.chunk_pixel_frames)
    made = []
    while engine.ready:
        made.append(engine.denoise(engine.take()))
    return torch.cat(made, dim=1)


def encoded(artifact: Artifact, portrait: np.ndarray, frames: np.ndarray) -> torch.Tensor:
    reference = artifact.vae.encode_reference(to_tensor(portrait)[None])
    return artifact.vae.encode(to_tensor(frames)[None], reference)[0]


def test_exact_keyframes_are_shown_and_remembered(artifact: Artifact, portrait: np.ndarray, picture: np.ndarray):
    free, exact = (steered(artifact, portrait, (picture, 0.5, one)) for one in (False, True))
    wanted = encoded(artifact, portrait, np.stack([picture] * 4))[0]
    torch.testing.assert_close(exact[0, 3], wanted, rtol=1e-5, atol=1e-5)
    assert (free[0, 3] - wanted).abs().max() > 0.1
    assert torch.equal(free[:, :3], exact[:, :3])
    after = 4 if artifact.contract.pattern.chunk_frames == 2 else 3
    assert not torch.equal(free[:, after + 1 :], exact[:, after + 1 :])


def test_a_picture_is_seen_a_clip_ahead_and_not_farther(artifact: Artifact, portrait: np.ndarray, picture: np.ndarray):
    """Training clips are six latent frames long: from there on a stream knows what it goes towards."""
    size, horizon = artifact.contract.pattern.chunk_frames, artifact.contract.horizon_frames
    frame = 2 * size + horizon - 1
    nothing = steered(artifact, portrait)
    made = steered(artifact, portrait, (picture, (4 * frame + 1) / 24, False))
    assert torch.equal(made[:, : 2 * size], nothing[:, : 2 * size])
    assert not torch.equal(made[:, 2 * size : 3 * size], nothing[:, 2 * size : 3 * size])


@one_chunk_length
def test_several_frames_become_known_at_once(artifact: Artifact, portrait: np.ndarray):
    frames = np.random.default_rng(2).integers(0, 256, (8, 32, 48, 3), dtype=np.uint8)
    made = steered(artifact, portrait, (frames, 0.0, True))
    assert torch.equal(made[0, :2], encoded(artifact, portrait, frames))


@one_chunk_length
def test_a_keyframe_stays_after_a_rewind(artifact: Artifact, portrait: np.ndarray, picture: np.ndarray):
    engine = Engine(artifact, seed=7, undo_chunks=2)
    engine.start(portrait)
    engine.keyframe(picture, at_s=0.5, exact=True)
    engine.finish(24)
    first = [engine.step() for _ in range(2)]
    engine.rewind(2)
    assert np.array_equal(np.stack(first), np.stack([engine.step() for _ in range(2)]))


@torch.no_grad()
def test_a_motion_keyframe_is_the_code_of_the_person_in_the_picture():
    """Relative to the reference, in every pixel frame of its latent frame, whatever size the picture has."""
    rules = motion_contract()
    rules, vae = rules.replace(dit=keyframed(rules.dit)), tiny_motion()
    torch.manual_seed(0)
    artifact = Artifact(rules, randomised(DiT(rules.dit)), vae)  # type: ignore[arg-type]
    rng = np.random.default_rng(0)
    person, other = rng.integers(0, 256, (2, 96, 96, 3), dtype=np.uint8)
    engine = Engine(artifact, seed=0, size=96)
    engine.start(person)
    engine.keyframe(other, at_s=0.2, exact=True)
    engine.act({"jawOpen": 0.5})
    engine.push_silence(24_000)
    made = torch.cat([engine.denoise(engine.take()) for _ in range(3)], dim=1)
    reference = vae.encode_reference(to_tensor(person)[None])
    codes = vae.encode(to_tensor(other).expand(1, 4, -1, -1, -1), reference)
    assert torch.equal(made[:, 1:2], codes)  # what callers set of codes holds around it
    place = [control.name for control in rules.codes].index("jawOpen")
    assert torch.equal(made[0, 2, place], torch.full((2, 2), float(made[0, 2, place, 0, 0])))
    assert codes.abs().max() > 0 and torch.equal(codes[0, 0, :, 0, 0], codes[0, 0, :, 1, 1])


@one_chunk_length
@pytest.mark.parametrize(
    ("asked", "rule"),
    [
        ({"at_s": 0.1}, r"at_s=0\.1 must be at least 0\.\d+: chunks before that have been generated"),
        ({"at_s": 5.0}, r"at_s=5 must be before the stream's end at 1 s"),
        ({"at_s": 0.55}, r"at_s=0\.55 must not be the time of another keyframe: the 0\.17 s from 0\.50 s on"),
    ],
)
def test_a_time_that_cannot_be_is_refused(artifact: Artifact, portrait: np.ndarray, asked: dict[str, float], rule: str):
    engine = Engine(artifact, seed=0)
    engine.start(portrait)
    engine.keyframe(portrait, at_s=0.5)
    engine.finish(24)
    engine.step()
    with pytest.raises(ValueError, match=rule):
        engine.keyframe(portrait, **asked)


@one_chunk_length
def test_pictures_of_another_size_or_number_are_refused(artifact: Artifact, portrait: np.ndarray):
    engine = Engine(artifact, seed=0)
    with pytest.raises(RuntimeError, match="must be started before a keyframe is set"):
        engine.keyframe(portrait, at_s=0.5)
    engine.start(portrait)
    with pytest.raises(ValueError, match="portrait of 16x48 px must be 32x48"):
        engine.keyframe(portrait[:16], at_s=0.5)
    with pytest.raises(ValueError, match="pixel_frames has 3 pictures, must be one, or a multiple of 4"):
        engine.keyframe(np.stack([portrait] * 3), at_s=0.5)


@one_chunk_length
def test_a_noisy_context_has_no_exact_keyframes(artifact: Artifact, portrait: np.ndarray):
    noisy = dataclasses.replace(artifact, contract=artifact.contract.replace(context="noisy"))
    engine = Engine(noisy, seed=0)
    engine.start(portrait)
    engine.keyframe(portrait, at_s=0.5)
    with pytest.raises(ValueError, match="exact=true must be false with context=noisy"):
        engine.keyframe(portrait, at_s=0.8, exact=True)


@one_chunk_length
def test_the_object_for_python_steers_a_stream(folder: Path, portrait: np.ndarray, picture: np.ndarray, tmp_path: Path):
    Image.fromarray(picture).save(tmp_path / "b.png")
    made = []
    for shown in (picture, tmp_path / "b.png"):
        live = Stream(folder, seed=7, device="cpu")
        live.start(portrait)
        live.finish(1)
        assert live.keyframe(shown, at_s=0.5, exact=True, crop=False).media_s == 0.5
        made.append(np.stack(list(live)))
    assert np.array_equal(*made)


# The command.


@pytest.fixture
def asked(folder: Path, tmp_path: Path, portrait: np.ndarray, picture: np.ndarray) -> dict[str, Any]:
    for name, pixels in (("a", portrait), ("b", picture)):
        Image.fromarray(pixels).save(tmp_path / f"{name}.png")
    soundfile.write(tmp_path / "speech.wav", np.zeros(24_000, np.float32), 24_000)
    given = {"artifact": str(folder), "audio": str(tmp_path / "speech.wav"), "crop": False, "seed": 3}
    return given | {"out": str(tmp_path / "talk.mp4")}


def shown(frames: np.ndarray, folder: Path) -> np.ndarray:
    """What a film of the frames shows: its codec loses something."""
    write_video(folder / "expected.mp4", frames, np.zeros(24_000, np.float32))
    return read_video(folder / "expected.mp4")[0]


@one_chunk_length
def test_first_and_last_frame_by_the_command(
    asked: dict[str, Any], artifact: Artifact, portrait: np.ndarray, picture: np.ndarray, tmp_path: Path
):
    """The clip's end is its last latent frame; without an image the first picture is the reference."""
    generate(ClipRequest(**asked, keyframes=[f"{tmp_path}/b.png@1", f"{tmp_path}/a.png@0"], exact=True))
    engine = Engine(artifact, seed=3)
    engine.start(portrait)
    engine.keyframe(portrait, at_s=0.0, exact=True)
    engine.keyframe(picture, at_s=23 / 24, exact=True)
    engine.push_silence(24_000)
    engine.finish(24)
    expected = np.concatenate(list(engine.chunks()))[:24]
    assert np.array_equal(read_video(asked["out"])[0], shown(expected, tmp_path))


@one_chunk_length
def test_a_clip_goes_on_from_a_video(asked: dict[str, Any], artifact: Artifact, tmp_path: Path):
    """Its last frames begin the clip; the reference is the first of them."""
    film = np.random.default_rng(5).integers(0, 256, (3, 4, 6, 3)).repeat(10, 0).repeat(8, 1).repeat(8, 2)
    write_video(tmp_path / "before.mp4", np.uint8(film), None)
    generate(ClipRequest(**asked, video=f"{tmp_path}/before.mp4", known_seconds=0.5))
    frames, _ = read_video(tmp_path / "before.mp4")
    engine = Engine(artifact, seed=3)
    engine.start(frames[18])
    engine.keyframe(frames[18:], at_s=0.0, exact=True)
    engine.push_silence(24_000)
    engine.finish(24)
    expected = np.concatenate(list(engine.chunks()))[:24]
    assert np.array_equal(read_video(asked["out"])[0], shown(expected, tmp_path))


@one_chunk_length
def test_a_film_of_another_rate_is_seen_at_the_models(artifact: Artifact, tmp_path: Path):
    """12 frames a second: each is seen twice."""
    film = np.random.default_rng(5).integers(0, 256, (12, 4, 6, 3)).repeat(8, 1).repeat(8, 2).astype(np.uint8)
    write_video(tmp_path / "slow.mp4", film, None, fps=12)
    framing = Framing(artifact.contract.resolution)
    end = video_end(str(tmp_path / "slow.mp4"), artifact.contract, framing, seconds=0.5, crop=False)
    assert np.array_equal(end.frames, read_video(tmp_path / "slow.mp4")[0][6:].repeat(2, axis=0))
    assert np.array_equal(end.portrait, end.frames[0])


@one_chunk_length
def test_a_bidirectional_stage_fills_in_between(
    run: Path, trained: tuple[DiT, HaarAutoencoder], asked: dict[str, Any], picture: np.ndarray, portrait: np.ndarray,
    contract: Contract, tmp_path: Path,
):  # fmt: skip
    rules = contract.replace(pattern=whole_clip(4, first_frames=1), horizon_frames=3, solver="ode", sigmas=(1.0,))
    save_weights(run / "bidirectional" / "weights", trained[0].state_dict(), dit_header(rules))
    bidirectional = asked | {"artifact": str(run / "bidirectional" / "weights")}
    generate(ClipRequest(**bidirectional, steps=2, keyframes=[f"{tmp_path}/a.png@0", f"{tmp_path}/b.png@0.8"]))
    rules = rules.replace(pattern=whole_clip(7, first_frames=1), horizon_frames=6, sigmas=(1.0, 5 / 6))
    engine = Engine(Artifact(rules, *trained), seed=3)
    engine.start(portrait)
    engine.keyframe(portrait, at_s=0.0)
    engine.keyframe(picture, at_s=0.8)
    engine.push_silence(24_000)
    engine.finish(24)
    condition = engine.timeline.keyframes.conditions(0)["keyframes"]
    assert [float(plane[-1, 0, 0]) for plane in condition[0]] == pytest.approx([1, 1 / 4, 1 / 3, 1 / 2, 1, 0])
    assert np.array_equal(read_video(asked["out"])[0], shown(engine.step(), tmp_path))


@one_chunk_length
@pytest.mark.parametrize(
    ("settings", "rule"),
    [
        ({"keyframes": ["a.png@0", "b.png@1.5"]}, r"keyframe .*b.png@1.5 must lie in the clip, which ends at 1.00 s"),
        ({"keyframes": ["a.png@0.1", "b.png@0"]}, r"keyframe .*a.png@0.1 must be at another time than .*b.png@0: both"),
        ({"keyframes": ["a.png"]}, r"keyframes has 'a.png', must have pictures with times"),
        ({"keyframes": ["a.png@-1"]}, "must have pictures with times of at least 0 seconds"),
        ({"keyframes": ["a.png@nan"]}, "must have pictures with times of at least 0 seconds"),
        ({"keyframes": ["NOTHING.png@0"]}, "NOTHING.png"),
        ({"keyframes": ["speech.wav@0"]}, "speech.wav"),
        ({"keyframes": ["a.png@0"], "crop": True}, r"a.png: the image of .* must show a face.*crop=false"),
        ({"video": "before.mp4"}, r"video=.* fills the clip of 1.00 s .* must leave some"),
        ({"video": "before.mp4", "known_seconds": 0.1}, r"the last 0.10 s must be at least 0.17 s, a latent frame"),
        ({"video": "before.mp4", "known_seconds": 0.5, "keyframes": ["a.png@0.3"]}, r"must be at 0.50 s or later"),
        ({"video": "a.txt"}, "a.txt"),
        ({"video": "before.mp4", "whole": True, "crop": None}, "must be left out with whole=true"),
        ({"known_seconds": 0}, "known_seconds=0 must be a finite number above 0"),
    ],
)  # fmt: skip
def test_what_cannot_be_is_refused_and_nothing_is_written(
    asked: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, settings: dict[str, Any], rule: str
):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "a.txt").write_text("no film")
    write_video(tmp_path / "before.mp4", np.zeros((24, 32, 48, 3), np.uint8), None)
    with pytest.raises(ValueError, match=rule):
        generate(ClipRequest(**asked | settings))
    assert not list(tmp_path.glob("talk*"))


@one_chunk_length
@pytest.mark.parametrize(
    ("settings", "rule"),
    [
        ({"keyframes": ["a.png@1.5"]}, r"must lie in the clip, which ends at 1\.00 s"),
        ({"keyframes": ["a.png@0", "b.png@0.1"]}, "which are one latent frame"),
        ({"keyframes": ["a.png@0"], "artifact": "weights/character"}, "the model has no condition with encoder="),
        ({"video": "before.mp4", "artifact": "weights/character"}, "the model has no condition with encoder="),
    ],
)
def test_keyframes_are_refused_before_the_model_is_loaded(
    asked: dict[str, Any], monkeypatch: pytest.MonkeyPatch, settings: dict[str, Any], rule: str
):
    """Which takes long, as does reading pictures."""

    def load(*_: object, **__: object) -> Artifact:
        raise AssertionError("loaded")

    monkeypatch.setattr("serve.generate.load_artifact", load)
    with pytest.raises(ValueError, match=rule):
        generate(ClipRequest(**asked | settings))


@one_chunk_length
def test_a_model_without_the_condition_refuses_keyframes(tmp_path: Path, asked: dict[str, Any]):
    plain = {"artifact": "weights/character", "crop": True, "image": str(sample_path("portrait"))}
    for settings in ({"keyframes": [f"{tmp_path}/a.png@0"]}, {"video": f"{tmp_path}/a.png"}):
        with pytest.raises(ValueError, match="keyframes must be left out: the model has no condition with encoder="):
            generate(ClipRequest(**asked | plain | settings))
    assert not Path(asked["out"]).exists()


def test_times_are_behind_the_last_at():
    assert TimedPicture.parse("me@home.png@2.5") == TimedPicture("me@home.png", 2.5)
