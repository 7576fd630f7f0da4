import json
from dataclasses import replace

import pytest

from data.manifest import MANIFEST_NAME, Manifest, Shard, SplitManifest, read_manifest, write_manifest
from gwm.resolution import Resolution

COMMAND = "python -m data.characters out=somewhere"


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "train-000000.tar").write_bytes(b"x" * 1000)
    write_manifest(tmp_path, manifest())
    return tmp_path


def manifest() -> Manifest:
    shard = Shard(name="train-000000.tar", bytes=1000, num_samples=3)
    return Manifest(
        kind="pixels",
        fps=24,
        sample_rate=24_000,
        resolution=Resolution(32, 48),
        num_frames=48,
        splits={"train": SplitManifest(shards=[shard], identities=["anny-1"], sentences=["Is it old?"])},
        seed=0,
        command=COMMAND,
        generator={"seed": 0},
    )


def test_a_manifest_survives_the_disk(folder):
    assert read_manifest(folder) == manifest()


def test_a_missing_folder_names_the_command(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"python -m data\.characters out="):
        read_manifest(tmp_path / "nothing")


def test_a_truncated_shard_is_named_with_both_sizes_and_the_command(folder):
    (folder / "train-000000.tar").write_bytes(b"x" * 900)
    with pytest.raises(ValueError, match=rf"train-000000.tar has 900 bytes, must have 1000.*{COMMAND}"):
        read_manifest(folder)


def test_a_missing_shard_is_named(folder):
    (folder / "train-000000.tar").unlink()
    with pytest.raises(FileNotFoundError, match=r"train-000000\.tar must exist"):
        read_manifest(folder)


def test_another_version_is_refused(folder):
    fields = json.loads((folder / MANIFEST_NAME).read_text())
    (folder / MANIFEST_NAME).write_text(json.dumps({**fields, "version": 99}))
    with pytest.raises(ValueError, match="99"):
        read_manifest(folder)


def test_an_unknown_split_is_refused(folder):
    with pytest.raises(ValueError, match="split='dev' must be one of"):
        manifest().shard_paths(folder, "dev")


def test_a_failed_write_leaves_the_old_manifest(folder):
    with pytest.raises(TypeError):
        write_manifest(folder, replace(manifest(), generator={"seed": object()}))
    assert read_manifest(folder) == manifest()


@pytest.mark.parametrize(
    ("text", "rule"),
    [
        ("{", r"manifest\.json must be JSON: .*line 1"),
        ("[]", r"manifest\.json must hold a JSON object"),
        ("version https://git-lfs.github.com/spec/v1\noid", r"manifest\.json is a git-LFS pointer.*git lfs pull"),
        ('{"format": "gwm-shards", "version": 1}', r"manifest\.json must have the entries .*'splits'"),
        (
            '{"format": "gwm-shards", "version": 1, "splits": {}}',
            r"manifest\.json must have the entries .*'resolution'",
        ),
    ],
)
def test_a_manifest_that_cannot_be_understood_says_why(folder, text, rule):
    (folder / MANIFEST_NAME).write_text(text)
    with pytest.raises(ValueError, match=rule):
        read_manifest(folder)
