"""A folder of another kind than a setting needs is named for what it is."""

import json
from pathlib import Path

import pytest
from torch import nn

from data.manifest import read_manifest as read_shards
from gwm.files.folder_kind import folder_kind
from gwm.weights import WeightsHeader, save_weights
from serve.artifact import read_manifest as read_artifact
from tests.data.test_encode import CLIPS, make


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """One of every kind, by what is said of it."""
    root = tmp_path_factory.mktemp("root")
    shards = make(root / "shards", CLIPS[:1])
    save_weights(
        root / "run" / "causal" / "weights", nn.Linear(1, 1).state_dict(), WeightsHeader(kind="dit", config={})
    )
    for name, text in {"artifact/manifest.json": '{"format": "gwm-artifact"}', "wan/model_index.json": "{}"}.items():
        (root / name).parent.mkdir()
        (root / name).write_text(text)
    (root / "empty").mkdir()
    (root / "file.mp4").touch()
    return {
        "holds shards of pixels": shards, "holds the weights of a dit": root / "run/causal/weights",
        "is the folder of one stage": root / "run/causal", "is a folder of stages (causal": root / "run",
        "is an artifact": root / "artifact", "is a published model": root / "wan", "is empty": root / "empty",
        "is a file": root / "file.mp4", "there is no such folder": root / "none",
    }  # fmt: skip


def test_every_kind_is_known(folders: dict[str, Path]):
    assert [said for said, folder in folders.items() if said not in folder_kind(folder)] == []


def test_readers_say_what_they_were_given(folders: dict[str, Path]):
    for said, folder in folders.items():
        if "shards" not in said:
            with pytest.raises((ValueError, FileNotFoundError)) as refused:
                read_shards(folder)
            assert said in str(refused.value)
        if "artifact" not in said:
            with pytest.raises((ValueError, FileNotFoundError)) as refused:
                read_artifact(folder)
            assert said in str(refused.value)


def test_a_damaged_file_is_no_error_here(tmp_path: Path):
    (tmp_path / "manifest.json").write_text("{")
    (tmp_path / "config.json").write_text(json.dumps([1]))
    assert folder_kind(tmp_path) == "it has config.json, manifest.json"
