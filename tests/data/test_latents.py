"""Latents are read when they are asked for, and the batches are those of clips that are all in memory."""

import io
import itertools
import tarfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

import data.latents
from data.batch import LatentBatch, LatentClips, LatentData, latent_batch
from data.encode import encode_shards
from data.encoding import Encoders
from data.latents import EncodedClips, read_index, read_no_text, with_windows, write_index
from data.manifest import read_manifest
from data.shards import read_samples
from data.steps import StepSampler
from tests.data.letters import Letters
from tests.data.test_encode import SIZE, clip, make
from tests.tiny import AUDIO, tiny_vae

SHARDS = [
    [clip(0, caption="a"), clip(1, action=np.arange(24.0).reshape(12, 2))],
    [],
    [clip(2), clip(3, caption="talks"), clip(4)],
]
STEPS, BATCH = 12, 3


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """Shards, one of them empty, and what they are encoded to."""
    torch.manual_seed(0)
    shards, latents = make(tmp_path_factory.mktemp("shards"), SHARDS), tmp_path_factory.mktemp("latents")
    encode_shards(shards, latents, Encoders(tiny_vae(), AUDIO, SIZE, Letters()))
    return shards, latents


def in_memory(latents: Path) -> list[dict[str, Tensor]]:
    """All clips at once, without an index."""
    raw = [np.load(io.BytesIO(sample["latents.npz"])) for sample in read_samples(latents, "train")]
    clips = [with_windows({name: torch.from_numpy(z[name]).float() for name in z.files}, AUDIO) for z in raw]
    width = max(c["frame.action"].shape[1] for c in clips if "frame.action" in c)
    return [{"frame.action": torch.zeros(len(c["x0"]), width)} | c for c in clips]


def batches(folders: tuple[Path, Path], **how: Any) -> list[LatentBatch]:
    data = LatentData(
        shards=str(folders[0]), latents=str(folders[1]), vae=tiny_vae(), audio=AUDIO, resolution=SIZE, num_frames=1,
        batch_size=BATCH, seed=3, **how,
    )  # fmt: skip
    data.setup("fit")
    return list(itertools.islice(data.train_dataloader(), STEPS))


@pytest.mark.parametrize(
    "how", [{"memory_gb": 0.0}, {"memory_gb": 1e-5}, {"memory_gb": 1.0}, {"memory_gb": 0.0, "num_workers": 1}], ids=str
)
def test_batches_are_those_of_clips_in_memory(folders: tuple[Path, Path], how: dict[str, Any]):
    clips = in_memory(folders[1])
    dataset = LatentClips(clips, num_frames=1, seed=3)
    sampler = StepSampler(len(clips), batch_size=BATCH, seed=3, first_step=0)
    expected = [latent_batch([dataset[key] for key in keys]) for keys in itertools.islice(sampler, STEPS)]
    for made, wanted in zip(batches(folders, **how), expected, strict=True):
        assert (made.step, made.first_slot) == (wanted.step, wanted.first_slot)
        assert torch.equal(made.x0, wanted.x0) and torch.equal(made.reference, wanted.reference)
        assert made.conditions.keys() - {"nothing.text"} == wanted.conditions.keys()
        assert all(torch.equal(made.conditions[name], values) for name, values in wanted.conditions.items())


def test_what_must_be_known_of_all_clips_comes_from_the_index(folders: tuple[Path, Path]):
    clips = EncodedClips(folders[1], "train", AUDIO, memory_bytes=0)
    motion = [np.load(io.BytesIO(s["latents.npz"]))["motion"] for s in read_samples(folders[1], "train")]
    torch.testing.assert_close(clips.motion, torch.from_numpy(np.mean(motion, axis=0, dtype=np.float32)))
    assert len(clips) == 5 and clips.shortest == 1 and clips.signals == {"frame.action": 8}


def test_no_more_stays_in_memory_than_is_allowed(folders: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch):
    """The clips asked for last stay; those are not read again."""
    one = EncodedClips(folders[1], "train", AUDIO, memory_bytes=10**9)
    sizes = [(one[i], one.kept_bytes)[1] for i in range(5)]
    read, decode = [], data.latents.decode_arrays
    monkeypatch.setattr(data.latents, "decode_arrays", lambda content: (read.append(len(content)), decode(content))[1])
    clips = EncodedClips(folders[1], "train", AUDIO, memory_bytes=sizes[2])
    for number, reads in [(0, 1), (1, 2), (0, 2), (2, 3), (3, 4), (0, 4), (1, 5)]:
        assert torch.equal(clips[number]["x0"], one[number]["x0"])
        assert len(read) == reads and clips.kept_bytes <= sizes[2]


def test_an_index_of_another_file_is_made_again(folders: tuple[Path, Path], tmp_path: Path):
    shard = next(folders[1].glob("*0.tar"))
    copy = tmp_path / shard.name
    copy.write_bytes(shard.read_bytes())
    before = write_index(copy, AUDIO)
    with tarfile.open(copy, "a") as tar:
        member = next(m for m in tarfile.open(shard) if m.name.endswith("latents.npz"))
        content = tarfile.open(shard).extractfile(member)
        assert content is not None
        member.name = "again.latents.npz"
        tar.addfile(member, content)
    assert len(read_index(copy, AUDIO).offset) == len(before.offset) + 1
    assert len(read_index(copy, AUDIO).offset) == 3


def test_an_index_is_made_with_its_shard(folders: tuple[Path, Path]):
    names = [shard.name for shard in read_manifest(folders[1]).splits["train"].shards]
    assert all((folders[1] / name.replace(".tar", ".index.npz")).is_file() for name in names)


def test_the_tokens_of_an_empty_caption_are_kept(folders: tuple[Path, Path]):
    assert torch.equal(read_no_text(folders[1]), Letters()(""))


def test_what_is_not_there_is_an_error(folders: tuple[Path, Path], tmp_path: Path):
    clips = EncodedClips(folders[1], "train", AUDIO, memory_bytes=0)
    with pytest.raises(IndexError, match=r"number=5 must be in \[0, 5\)"):
        clips[5]
    shards, out = make(tmp_path / "shards", [[]]), tmp_path / "out"
    encode_shards(shards, out, Encoders(tiny_vae(), AUDIO, SIZE))
    with pytest.raises(ValueError, match=r"split='train' of .* must have clips"):
        EncodedClips(out, "train", AUDIO, memory_bytes=0)
    assert read_no_text(out) is None
