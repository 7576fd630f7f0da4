"""Encoding goes on where it ended, adds what is new, and keeps text and actions with their latents."""

import dataclasses
from pathlib import Path

import numpy as np
import pytest
import torch

import data.encoding
from data.batch import LatentBatch, LatentClips, latent_batch, padded
from data.clips import make_clip, reference_pose
from data.encode import encode_shards
from data.encoding import Encoders, encode_clip
from data.latents import MEMBER, EncodedClips, decode_arrays, read_no_text
from data.manifest import PROGRESS_NAME, Manifest, SplitManifest, read_manifest, write_manifest
from data.shards import Clip, Truth, decode_sample, encode_sample, read_shard, write_shard
from gwm.autoencoders.motion.code import from_latents, physical
from gwm.resolution import Resolution
from tests.data.letters import Letters
from tests.data.test_shards import Sketch, plans
from tests.gwm.autoencoders.kit import tiny_motion
from tests.tiny import AUDIO, tiny_vae

FRAMES, SIZE = 12, Resolution(16, 32)


def clip(number: int, *, caption: str | None = None, action: np.ndarray | None = None) -> Clip:
    rng = np.random.default_rng(number)
    frames = rng.integers(0, 256, (FRAMES, *SIZE.shape, 3), np.uint8)
    info = {"identity": str(number), "style": "footage", "caption": caption}
    voice = rng.normal(0, 0.1, 1000 * FRAMES).astype(np.float32)
    return Clip(
        key=f"{number:04d}", frames=frames, agent=voice, user=None, reference=frames[0], truth=None, info=info,
        signals={} if action is None else {"action": action},
    )  # fmt: skip


def make(folder: Path, shards: list[list[Clip]], **generator: str) -> Path:
    folder.mkdir(exist_ok=True)
    written = [write_shard(folder / f"train-{n:06d}.tar", map(encode_sample, clips)) for n, clips in enumerate(shards)]
    splits = {"train": SplitManifest(shards=written, identities=[], sentences=[])}
    manifest = Manifest(
        kind="pixels", fps=24, sample_rate=24_000, resolution=SIZE, num_frames=FRAMES, splits=splits, seed=0,
        command="make it", generator={"seed": 0, **generator},
    )  # fmt: skip
    write_manifest(folder, manifest)
    return folder


CLIPS = [[clip(0, caption="a"), clip(1, action=np.arange(24.0).reshape(12, 2))], [clip(2)], [clip(3), clip(4)]]


@pytest.fixture
def encoders() -> Encoders:
    torch.manual_seed(0)
    return Encoders(tiny_vae(), AUDIO, SIZE, Letters())


@pytest.fixture
def shards(tmp_path: Path) -> Path:
    return make(tmp_path / "shards", CLIPS)


def snapshot(out: Path) -> dict[str, tuple[int, bytes]]:
    return {path.name: (path.stat().st_mtime_ns, path.read_bytes()) for path in out.glob("*.tar")}


def contents(out: Path) -> dict[str, bytes]:
    return {name: content for name, (_, content) in snapshot(out).items()}


def test_a_second_call_adds_nothing(shards: Path, encoders: Encoders, tmp_path: Path):
    manifest = encode_shards(shards, tmp_path / "out", encoders)
    before = snapshot(tmp_path / "out")
    assert encode_shards(shards, tmp_path / "out", encoders) == manifest == read_manifest(tmp_path / "out")
    assert snapshot(tmp_path / "out") == before and len(before) == 3


def test_an_interrupted_call_goes_on_at_the_first_unfinished_shard(
    shards: Path, encoders: Encoders, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    whole = encode_shards(shards, tmp_path / "whole", encoders)
    encode, calls = data.encoding.encode_sample, []

    def dies(sample, made):
        calls.append(sample["__key__"])
        if len(calls) == 5:
            raise KeyboardInterrupt
        return encode(sample, made)

    monkeypatch.setattr(data.encoding, "encode_sample", dies)
    with pytest.raises(KeyboardInterrupt):
        encode_shards(shards, tmp_path / "out", encoders)
    assert (tmp_path / "out" / PROGRESS_NAME).is_file() and not (tmp_path / "out" / "manifest.json").exists()
    assert encode_shards(shards, tmp_path / "out", encoders).splits == whole.splits
    assert calls[5:] == ["0003", "0004"]
    assert contents(tmp_path / "out") == contents(tmp_path / "whole")
    assert not (tmp_path / "out" / PROGRESS_NAME).exists()


def test_what_is_new_or_changed_is_encoded_alone(shards: Path, encoders: Encoders, tmp_path: Path):
    encode_shards(shards, tmp_path / "out", encoders)
    before = snapshot(tmp_path / "out")
    make(shards, [CLIPS[0], [clip(2), clip(7)], CLIPS[2], [clip(5)]], sources="more of them")
    manifest = encode_shards(shards, tmp_path / "out", encoders)
    after = snapshot(tmp_path / "out")
    same = {name for name in after if after[name] == before.get(name)}
    assert same == {"train-000000.tar", "train-000002.tar"} and manifest.splits["train"].num_samples == 7


@pytest.mark.slow
def test_two_workers_make_the_same_shards(shards: Path, encoders: Encoders, tmp_path: Path):
    encode_shards(shards, tmp_path / "one", encoders)
    encode_shards(shards, tmp_path / "two", encoders, workers=2)
    assert contents(tmp_path / "one") == contents(tmp_path / "two")
    assert read_manifest(tmp_path / "one").splits == read_manifest(tmp_path / "two").splits


def test_other_settings_do_not_mix(shards: Path, encoders: Encoders, tmp_path: Path):
    encode_shards(shards, tmp_path, encoders)
    for changed, name in [
        (dataclasses.replace(encoders, text=None), "text"),
        (dataclasses.replace(encoders, vae=tiny_vae()), "vae"),
        (dataclasses.replace(encoders, resolution=Resolution(8, 16)), "resolution"),
    ]:
        with pytest.raises(ValueError, match=f"latents made with another {name}, must"):
            encode_shards(shards, tmp_path, changed)
    with pytest.raises(ValueError, match="workers=0 must be at least 1"):
        encode_shards(shards, tmp_path, encoders, workers=0)


def test_captions_and_actions_reach_the_batch(shards: Path, encoders: Encoders, tmp_path: Path):
    encode_shards(shards, tmp_path, encoders)
    clips = EncodedClips(tmp_path, "train", AUDIO, memory_bytes=0)
    dataset = LatentClips(clips, num_frames=1, seed=0, no_text=read_no_text(tmp_path))
    batch: LatentBatch = latent_batch([dataset[0, slot, slot] for slot in range(3)])
    condition = batch.condition
    text = condition["text"]
    assert text.shape == (3, 512, 2)
    assert text[0, :2].tolist() == [[0, 1], [97, 0]] and text[1, 0].tolist() == [0, 1]
    assert not text[0, 2:].any() and not text[1, 1:].any()
    assert condition.nothing["text"].tolist() == [[0, 1]]
    assert torch.equal(condition.dropped("text")["text"][0], text[1])  # that of a clip without caption
    # The second clip's only latent frame with a whole audio window is its second: pixel frames 4 to 7.
    assert condition["action"][1, 0].tolist() == list(range(8, 16))
    assert not condition["action"][[0, 2]].any() and condition["action"].shape == (3, 1, 8)


def test_facial_actions_of_renders_are_what_the_truth_says(shards: Path, encoders: Encoders, tmp_path: Path):
    """In place of the clips' own; real footage has no truth."""
    rng = np.random.default_rng(5)
    acted = rng.random((FRAMES, 52)).astype(np.float32)
    still, quiet = np.zeros((FRAMES, 3), np.float32), np.zeros(FRAMES, bool)
    truth = Truth(
        mouth=still[:, 0], actions=acted, pose=still, gaze=still[:, :2], agent_speaking=quiet, user_speaking=quiet
    )
    rendered = dataclasses.replace(clip(0), truth=truth, signals={"action": np.ones((FRAMES, 2))})
    names = ("eyeBlinkRight", "eyeBlinkLeft")
    with_actions = dataclasses.replace(encoders, actions=names)
    manifest = encode_shards(make(tmp_path / "rendered", [[rendered]]), tmp_path / "out", with_actions)
    clips = EncodedClips(tmp_path / "out", "train", AUDIO, memory_bytes=0)
    batch = latent_batch([LatentClips(clips, num_frames=1, seed=0)[0, 0, 0]])
    assert manifest.generator["actions"] == list(names)
    expected = torch.from_numpy(acted[4:8][:, [9, 8]].astype(np.float16)).float()
    assert torch.equal(batch.condition["action"][0, 0], expected.flatten())
    with pytest.raises(ValueError, match="latents made with another actions, must"):
        encode_shards(tmp_path / "rendered", tmp_path / "out", dataclasses.replace(with_actions, actions=names[:1]))
    with pytest.raises(ValueError, match=r"clip 0000 must be rendered to have actions=\['eyeBlinkRight'"):
        encode_shards(shards, tmp_path / "footage", with_actions)


def test_latents_with_actions_serve_those_who_ask_for_none(encoders: Encoders, shards: Path, tmp_path: Path):
    manifest = encode_shards(shards, tmp_path, encoders)
    assert "actions" not in manifest.generator
    manifest.generator["actions"] = ["eyeBlinkLeft"]
    write_manifest(tmp_path, manifest)
    before = snapshot(tmp_path)
    encode_shards(shards, tmp_path, encoders)
    assert snapshot(tmp_path) == before


def test_crops_in_which_something_is_done_are_found(shards: Path, encoders: Encoders, tmp_path: Path):
    """Clip 1 of five has actions. As long as nobody asks for them, crops are those that the sampler chose."""
    encode_shards(shards, tmp_path, encoders)
    clips = EncodedClips(tmp_path, "train", AUDIO, memory_bytes=0)
    for acting in (True, False):
        crops = LatentClips(clips, num_frames=1, seed=0, active="action" if acting else None)
        done = [bool(crops[step, 0, 3]["frame.action"].any()) for step in range(8)]
        assert all(done) if acting else not any(done)


def test_long_texts_are_cut():
    assert torch.equal(padded(torch.arange(1200.0)[:, None]), torch.arange(512.0)[:, None])


def rendered(head_motion: float) -> Clip:
    (plan,) = plans({"train": 1})["train"]
    return make_clip(plan, Sketch(), plan.identity_seed, head_motion=head_motion)


def test_motion_codes_of_a_rendered_clip_are_what_was_drawn(tmp_path: Path):
    """In half precision, in their physical units; the pose counts from the reference's."""
    drawn = rendered(head_motion=0.5)
    shards = make(tmp_path / "rendered", [[drawn]])
    encode_shards(shards, tmp_path / "out", Encoders(tiny_motion(), AUDIO, Resolution(64, 64)))
    (sample,) = read_shard(tmp_path / "out" / "train-000000.tar")
    made = physical(from_latents(decode_arrays(sample[MEMBER])["latents"][None])[0]).numpy()
    truth, pose = drawn.truth, 0.5 * reference_pose(drawn.info["seed"])
    assert truth is not None and np.abs(pose).max() > 0.01
    expected = np.concatenate([truth.actions, truth.pose - pose, truth.gaze], axis=1)
    np.testing.assert_allclose(made, expected, rtol=1e-3, atol=1e-4)


def test_rendered_clips_without_the_references_pose_have_no_exact_codes():
    drawn = rendered(head_motion=1.0)
    assert drawn.truth is not None
    old = dataclasses.replace(drawn, truth=dataclasses.replace(drawn.truth, reference_pose=None))
    assert decode_sample(encode_sample(old)).truth.reference_pose is None  # type: ignore[union-attr]
    with pytest.raises(ValueError, match=r"clip 0.* must have its reference's pose in truth\.npz"):
        encode_clip(old, tiny_motion(), AUDIO)


def test_only_what_is_trained_on_is_encoded(shards: Path, encoders: Encoders, tmp_path: Path):
    manifest = read_manifest(shards)
    write_manifest(shards, dataclasses.replace(manifest, splits={"val": manifest.splits["train"]}))
    assert encode_shards(shards, tmp_path / "none", encoders).splits == {} and not snapshot(tmp_path / "none")
