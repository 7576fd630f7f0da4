import io
import tarfile

import av
import numpy as np
import pytest

from data.actions import ACTION_NAMES
from data.clips import make_clip, plan_split
from data.manifest import PROGRESS_NAME, Manifest, read_manifest
from data.shards import CODEC_OPTIONS, decode_sample, encode_frames, encode_sample, read_samples, read_shard
from data.synthetic import generate
from gwm.resolution import Resolution
from tests.memory import moving, results

NUM_FRAMES = 24
INT16_STEP = 1 / 32768


class Sketch:
    """A renderer fit for tests: a smooth face-coloured disc with a dark mouth as high as the jaw is open."""

    def render(self, identity, actions, pose, gaze):
        y, x = np.mgrid[-1:1:64j, -1:1:64j]
        disc = np.exp(-4 * (x**2 + y**2))
        lips = [(((x - yaw) / 0.3) ** 2 + ((y - 0.3) / (0.05 + a)) ** 2) for yaw, a in zip(pose[:, 0], actions[:, JAW])]
        skin = np.array([200, 150, 120]) + identity % 40
        return np.stack([(disc - 0.5 * np.exp(-lip)).clip(0, 1)[..., None] * skin for lip in lips]).astype(np.uint8)

    def mouth(self, identity, actions):
        return actions[:, JAW]


JAW = ACTION_NAMES.index("jawOpen")


def sketch(plan):
    return encode_sample(make_clip(plan, Sketch(), plan.identity_seed))


def plans(sizes: dict[str, int], seed: int = 0):
    options = {"num_frames": NUM_FRAMES, "clips_per_identity": 2, "styles": ("anny", "drawn"), "anny_share": 0.5}
    return {split: plan_split(split, size, seed=seed, **options) for split, size in sizes.items()}


def settings(seed: int = 0) -> Manifest:
    return Manifest(
        kind="pixels", fps=24, sample_rate=24_000, resolution=Resolution(64, 64), num_frames=NUM_FRAMES, splits={},
        seed=seed, command="make it", generator={"seed": seed},
    )  # fmt: skip


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("shards")
    generate(folder, settings(), plans({"train": 6, "val": 4}), sketch, num_workers=1)
    return folder


def test_calm_heads_move_by_the_share_asked_for():
    plan = plans({"train": 1})["train"][0]
    natural, calm, still = (make_clip(plan, Sketch(), plan.identity_seed, head_motion=m) for m in (1.0, 0.25, 0.0))
    np.testing.assert_allclose(calm.truth.pose, 0.25 * natural.truth.pose, rtol=1e-6)
    assert np.abs(natural.truth.pose).max() > 0.01 and not still.truth.pose.any()
    assert np.array_equal(calm.truth.actions, natural.truth.actions)
    assert not np.array_equal(calm.frames, natural.frames)
    assert not np.array_equal(still.reference, natural.reference)


def test_a_split_without_clips_is_left_out_and_a_set_without_any_is_refused(tmp_path):
    made = generate(tmp_path, settings(), plans({"train": 1, "val": 0}), sketch, num_workers=1)
    assert list(made.splits) == ["train"]
    with pytest.raises(ValueError, match=r"train, val = \[0, 0\] must have at least 1 clip together"):
        generate(tmp_path / "none", settings(), plans({"train": 0, "val": 0}), sketch, num_workers=1)
    assert not (tmp_path / "none").exists()


def test_a_clip_survives_its_shard(folder):
    plan = plans({"train": 1})["train"][0]
    clip = make_clip(plan, Sketch(), plan.identity_seed)
    back = decode_sample(next(read_samples(folder, "train")))
    noise = np.square(back.frames.astype(float) - clip.frames).mean()
    assert 10 * np.log10(255**2 / noise) > 38
    assert np.abs(back.agent - clip.agent).max() <= INT16_STEP and np.abs(back.user - clip.user).max() <= INT16_STEP
    assert np.array_equal(back.reference, clip.reference) and back.info["identity"] == plan.identity_name
    for name in ("mouth", "actions", "pose", "gaze", "agent_speaking", "user_speaking", "reference_pose"):
        assert np.array_equal(getattr(back.truth, name), getattr(clip.truth, name)), name


def test_equal_frames_give_equal_bytes_whatever_memory_holds():
    """Seen on a CPU with AVX-512: without the option, fresh memory of each content gives another file."""
    assert len(results(lambda: encode_frames(moving(NUM_FRAMES, 64)))) == 1


def test_equal_frames_give_equal_bytes_on_every_cpu(monkeypatch):
    """Also on one that has no vector instructions at all."""
    found = encode_frames(moving(NUM_FRAMES, 64))
    monkeypatch.setitem(CODEC_OPTIONS, "x264-params", CODEC_OPTIONS["x264-params"] + ":asm=0")
    assert encode_frames(moving(NUM_FRAMES, 64)) == found


def test_audio_of_another_length_is_refused():
    plan = plans({"train": 1})["train"][0]
    clip = make_clip(plan, Sketch(), plan.identity_seed)
    object.__setattr__(clip, "agent", clip.agent[:-1])
    with pytest.raises(ValueError, match="agent has 23999 samples, must have 24000"):
        encode_sample(clip)


def test_splits_share_no_identity_and_no_sentence(folder):
    splits = read_manifest(folder).splits
    assert not set(splits["train"].identities) & set(splits["val"].identities)
    assert splits["train"].sentences and not set(splits["train"].sentences) & set(splits["val"].sentences)
    for split, entry in splits.items():
        infos = [decode_sample(sample).info for sample in read_samples(folder, split)]
        assert {info["identity"] for info in infos} == set(entry.identities) and len(infos) == entry.num_samples


def test_an_interrupted_run_goes_on_and_ends_in_the_same_bytes(folder, tmp_path):
    """Killed in the second shard, then called again: the first is kept, the files equal an uninterrupted run's."""
    calls = []

    def dies_in_val(plan):
        if plan.split == "val":
            raise KeyboardInterrupt
        return sketch(plan)

    def counts(plan):
        calls.append(plan.key)
        return sketch(plan)

    both = plans({"train": 6, "val": 4})
    with pytest.raises(KeyboardInterrupt):
        generate(tmp_path, settings(), both, dies_in_val, num_workers=1)
    assert (tmp_path / PROGRESS_NAME).is_file()
    generate(tmp_path, settings(), both, counts, num_workers=1)
    assert len(calls) == 4
    for name in ("train-000000.tar", "val-000000.tar", "manifest.json"):
        assert (tmp_path / name).read_bytes() == (folder / name).read_bytes()


def test_a_truncated_shard_is_made_again(folder, tmp_path):
    both = plans({"train": 2})
    generate(tmp_path, settings(), both, sketch, num_workers=1)
    whole = (tmp_path / "train-000000.tar").read_bytes()
    (tmp_path / "train-000000.tar").write_bytes(whole[:-512])
    generate(tmp_path, settings(), both, sketch, num_workers=1)
    assert (tmp_path / "train-000000.tar").read_bytes() == whole


def test_other_settings_do_not_mix_with_shards_on_disk(folder):
    with pytest.raises(ValueError, match=r"other settings \(seed\)"):
        generate(folder, settings(seed=1), plans({"train": 6}, seed=1), sketch, num_workers=1)


def members(folder) -> list[tarfile.TarInfo]:
    with tarfile.open(next(folder.glob("train-*.tar"))) as tar:
        return tar.getmembers()


@pytest.mark.parametrize("part", ["mp4", "agent.flac", "reference.png", "truth.npz", "json"])
def test_a_damaged_part_is_named_with_sample_and_shard(folder, tmp_path, part):
    shard = tmp_path / next(folder.glob("train-*.tar")).name
    data = bytearray((folder / shard.name).read_bytes())
    member = next(m for m in members(folder) if m.name.endswith(f".{part}"))
    data[member.offset_data : member.offset_data + member.size] = b"\x01" * member.size
    shard.write_bytes(data)
    key = member.name.partition(".")[0]
    with pytest.raises(ValueError, match=rf"part {part} of sample {key} in .*{shard.name}.*manifest\.json"):
        [decode_sample(sample) for sample in read_shard(shard)]


def test_a_missing_part_is_named(folder):
    sample = next(read_samples(folder, "train"))
    del sample["reference.png"]
    with pytest.raises(ValueError, match=r"part reference\.png of sample .* is missing"):
        decode_sample(sample)


@pytest.mark.parametrize("cut", [100, 700, -600])
def test_a_damaged_tar_is_named(folder, tmp_path, cut):
    """Cut in a header, in a member, and near the end."""
    data = next(folder.glob("train-*.tar")).read_bytes()
    at = members(folder)[0].offset_data
    (tmp_path / "a.tar").write_bytes({100: data[:100], 700: data[: at + 50], -600: b"\x01" * 600 + data[600:]}[cut])
    with pytest.raises(ValueError, match=r"a\.tar"):
        [decode_sample(sample) for sample in read_shard(tmp_path / "a.tar")]


def test_stored_colours_are_named_as_they_are_stored(folder):
    """Oracle: BT.601 on the planes; a player that obeys the names shows what the renderer drew."""
    grey = np.broadcast_to(np.array([200, 100, 80], np.uint8), (2, 64, 64, 3))
    with av.open(io.BytesIO(encode_frames(grey))) as container:
        frame = next(container.decode(video=0))
    assert int(frame.colorspace) in (5, 6) and int(frame.color_range) == 1  # ITU-T H.273: BT.601, limited
    y, cb, cr = (np.frombuffer(plane, np.uint8)[0].astype(float) for plane in frame.planes)
    luma, blue, red = (y - 16) / 219, (cb - 128) / 224, (cr - 128) / 224
    r, b = luma + 1.402 * red, luma + 1.772 * blue
    assert 255 * np.array([r, (luma - 0.299 * r - 0.114 * b) / 0.587, b]) == pytest.approx([200, 100, 80], abs=3)
