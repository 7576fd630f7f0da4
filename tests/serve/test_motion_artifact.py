"""An artifact whose autoencoder moves the portrait: any size out, from encoded clips to a film."""

import dataclasses
from pathlib import Path

import numpy as np
import pytest
import torch

from data.encode import encode_shards
from data.encoding import Encoders
from data.latents import EncodedClips, heard_frames
from data.shards import decode_sample, read_shard
from evaluate.cases import Case
from evaluate.endless import Stream as EndlessStream
from evaluate.examine import play
from gwm.autoencoders.protocol import KIND
from gwm.contract import Contract
from gwm.dit import DiT
from gwm.media.video import read_video
from gwm.metrics.judge import Voices
from gwm.resolution import Resolution
from gwm.weights import WeightsHeader, save_weights
from serve.artifact import Artifact, load_artifact
from serve.bench.speed import measure_artifact
from serve.engine import Engine
from serve.export import export
from serve.generate import generate
from serve.memory import slot_bytes
from serve.request import ClipRequest
from serve.samples import sample_path
from serve.stream import Stream
from tests.data.test_encode import clip, make
from tests.gwm.autoencoders.kit import TINY_MOTION, tiny_motion
from tests.serve.conftest import randomised, tiny_contract
from tests.tiny import AUDIO
from train.networks import dit_header

SIZE = 96


def motion_contract() -> Contract:
    rules = tiny_contract(chunk_frames=1)
    dit = dataclasses.replace(rules.dit, in_channels=57, patch=2, place_grid=())
    return rules.replace(vae=TINY_MOTION, dit=dit, resolution=Resolution(256, 256))


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """As the stages and stage=motion_export, which judges nothing, leave them; then exported."""
    runs, rules = tmp_path_factory.mktemp("motion"), motion_contract()
    torch.manual_seed(0)
    save_weights(runs / "dit", randomised(DiT(rules.dit)).state_dict(), dit_header(rules))
    save_weights(runs / "vae", tiny_motion().state_dict(), WeightsHeader(kind=KIND, config=TINY_MOTION.to_json()))
    export(str(runs / "dit"), str(runs / "vae"), str(runs / "artifact"))
    return runs / "artifact"


@pytest.fixture
def artifact(folder: Path) -> Artifact:
    return load_artifact(folder, device="cpu")


def portrait(side: int) -> np.ndarray:
    return np.random.default_rng(side).integers(0, 256, (side, side, 3), dtype=np.uint8)


def played(engine: Engine, voices: tuple[np.ndarray, np.ndarray]) -> np.ndarray:
    return engine.play(portrait(engine.size[0]), *voices)[0]


def test_frames_have_the_portraits_size_and_are_its_latents_decoded_whole(artifact: Artifact, voices):
    engine = Engine(artifact, seed=3, size=SIZE)
    frames = played(engine, voices)
    engine.start(portrait(SIZE))
    engine.push(*voices)
    engine.finish(len(frames))
    latents = torch.cat([engine.denoise(engine.take()).clone() for _ in range(-(-len(frames) // 4))], dim=1)
    reference = artifact.vae.encode_reference(torch.from_numpy(portrait(SIZE))[None])
    whole = artifact.vae.decode(latents, artifact.vae.begin(reference))[0][0].numpy()
    assert frames.shape[1:] == (SIZE, SIZE, 3)
    assert np.array_equal(frames, whole[: len(frames)])


def test_latents_do_not_depend_on_the_size_that_is_shown(artifact: Artifact, voices):
    made = []
    for size in (SIZE, 128):
        engine = Engine(artifact, seed=3, size=size)
        engine.start(portrait(size))
        engine.push(*voices)
        made.append(engine.denoise(engine.take()).clone())
    assert torch.equal(*made)


def test_a_chunk_that_is_taken_back_is_shown_again_to_the_bit(artifact: Artifact, voices):
    engine = Engine(artifact, seed=3, size=SIZE, undo_chunks=2)
    engine.start(portrait(SIZE))
    engine.push(*voices)
    engine.step()
    second, third = engine.step(), engine.step()
    engine.rewind(2)
    assert np.array_equal(engine.step(), second) and np.array_equal(engine.step(), third)


def test_the_reference_is_counted_in_a_slots_bytes_and_grows_with_its_size(artifact: Artifact):
    memory = Engine(artifact, seed=0, size=SIZE).decoder.memory
    assert [part.shape for part in memory.moving] == [(1, 5)]  # where head and eyes were
    small, large = (slot_bytes(artifact, undo_chunks=0, text_tokens=512, size=size) for size in (SIZE, 2 * SIZE))
    wide = 1.5**2  # portrait and share have a margin, the background has none; a byte each
    assert large - small == ((3 + 1) * wide + 3) * (4 - 1) * SIZE**2
    assert small > sum(part.nbytes for part in memory.constant)


def test_a_stream_and_a_benchmark_have_the_size_that_is_asked_for(folder: Path, voices):
    stream = Stream(folder, size=SIZE, device="cpu")
    stream.start(portrait(SIZE))
    stream.push(*voices)
    assert next(iter(stream)).shape == (SIZE, SIZE, 3)
    assert measure_artifact(str(folder), chunks=2, size=SIZE)["size_px"] == [SIZE, SIZE]


def test_pictures_are_512_px_unless_another_size_is_asked_for(artifact: Artifact):
    assert Engine(artifact, seed=0).size == (512, 512)
    configs = Path(__file__).parents[2] / "configs"
    assert all("null: 512" in (configs / name).read_text() for name in ("serve.yaml", "generate.yaml"))


def test_an_evaluation_plays_in_the_size_in_which_clips_are_rendered(artifact: Artifact, voices):
    agent, user = voices
    heard = Voices(agent=agent, user=user, listening=np.zeros(len(agent) // 1000, bool))
    image = portrait(256)
    case = Case(key="a", style="anny", person="a", reference=image, render=image[None], mouth=None, voices=heard)
    assert play(artifact, case, seed=0)[0].shape[1:] == (256, 256, 3)
    assert next(EndlessStream(artifact, [case], seed=0)).shape[1:] == (256, 256, 3)


@pytest.mark.parametrize("size", [62, 97, 4000])
def test_sizes_that_no_film_has_are_refused(artifact: Artifact, size: int):
    with pytest.raises(ValueError, match=rf"size={size} must be an even number in \[64, 2160\]"):
        Engine(artifact, seed=0, size=size)


def test_a_contract_in_another_resolution_than_the_latents_is_refused():
    with pytest.raises(ValueError, match="resolution=512x512 must be 256 with family=motion"):
        motion_contract().replace(resolution=Resolution(512, 512))


def test_pictures_of_a_plain_autoencoder_have_one_size():
    with pytest.raises(ValueError, match="size=64 must be 32x48, or null: a haar autoencoder"):
        tiny_contract(chunk_frames=1).picture_size(64)
    assert tiny_contract(chunk_frames=1).picture_size(None) == (32, 48)


@pytest.mark.parametrize("whole", [False, True])
def test_a_film_has_the_portrait_or_the_whole_picture_around_it(folder: Path, tmp_path: Path, whole: bool):
    out = tmp_path / "talk.mp4"
    image = str(sample_path("portrait"))
    request = ClipRequest(artifact=str(folder), out=str(out), image=image, seconds=0.5, size=SIZE, whole=whole)
    generate(request)
    frames, fps = read_video(out)
    contract = load_artifact(folder, device="cpu").contract
    picture, square = request.picture(contract, contract.framing(SIZE))
    assert fps == 24 and frames.shape == (12, *(picture.shape if whole else (SIZE, SIZE, 3)))
    assert (square is not None) == whole
    if square is not None:
        assert square.side == SIZE + 2 * (SIZE // 4)
        outside = np.ones(picture.shape[:2], bool)
        top, left = max(square.top, 0), max(square.left, 0)
        outside[top : square.top + square.side, left : square.left + square.side] = False
        assert outside.mean() > 0.1
        assert np.abs(frames[:, outside].astype(int) - picture[outside]).mean() < 8  # H.264


def test_encoded_clips_are_codes_and_all_of_their_cells_move_alike(tmp_path: Path):
    rng = np.random.default_rng(0)
    frames = rng.integers(0, 256, (12, 64, 64, 3), np.uint8)
    clips = [dataclasses.replace(clip(k), frames=frames, reference=frames[k]) for k in range(2)]
    shards = make(tmp_path / "shards", [clips])
    autoencoder = tiny_motion()
    encode_shards(shards, tmp_path / "out", Encoders(autoencoder, AUDIO, Resolution(64, 64)))
    encoded = EncodedClips(tmp_path / "out", "train", AUDIO, memory_bytes=10**9)
    read = decode_sample(next(read_shard(shards / "train-000000.tar")))
    reference = autoencoder.encode_reference(torch.from_numpy(read.reference.copy())[None])
    expected = autoencoder.encode(torch.from_numpy(read.frames.copy())[None], reference)[0]
    heard = heard_frames(3, 4, AUDIO)
    torch.testing.assert_close(
        encoded[0]["x0"].float(), expected[heard], rtol=1e-2, atol=1e-2
    )  # kept in half precision
    assert not encoded[0]["reference"].any()
    assert encoded.motion.shape == (2, 2) and encoded.motion.unique().numel() == 1
