"""A checkpoint is written whole or not at all, and a run goes on only as it began."""

import errno
import os
import resource
from pathlib import Path

import pytest
import torch
from omegaconf import OmegaConf

from gwm.condition.inputs import Conditions
from train.checkpoint import AtomicCheckpointIO, moved, remember_config


def assert_kept(folder: Path) -> None:
    """The old checkpoint is whole, and nothing lies beside it and fills the disk."""
    assert torch.load(folder / "last.ckpt")["step"] == 1
    assert [file.name for file in folder.iterdir()] == ["last.ckpt"]


@pytest.mark.parametrize("room_bytes", [0, 100, 5_000, 300_000])
def test_a_full_disk_keeps_the_last_good_checkpoint(tmp_path: Path, room_bytes: int):
    """The size limit of a process stands in for the end of the disk: torch.save fails early, in the middle or late."""
    path, io = tmp_path / "last.ckpt", AtomicCheckpointIO()
    io.save_checkpoint({"step": torch.tensor(1)}, path)
    assert_kept(tmp_path)
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (room_bytes, hard))
    try:
        with pytest.raises(OSError, match="last good one is kept"):
            io.save_checkpoint({"step": torch.tensor(2), "weights": torch.ones(100_000)}, path)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert_kept(tmp_path)


def test_a_disk_that_fills_up_while_flushing_keeps_the_last_good_checkpoint(tmp_path: Path, monkeypatch):
    def full_disk(_descriptor: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    path, io = tmp_path / "last.ckpt", AtomicCheckpointIO()
    io.save_checkpoint({"step": torch.tensor(1)}, path)
    monkeypatch.setattr(os, "fsync", full_disk)
    with pytest.raises(OSError, match="last good one is kept"):
        io.save_checkpoint({"step": torch.tensor(2)}, path)
    assert_kept(tmp_path)


def test_other_settings_are_named(tmp_path: Path):
    before = OmegaConf.create({"seed": 0, "stage": {"shift": 2.0}, "trainer": {"max_steps": 5}})
    remember_config(tmp_path, before)
    longer = OmegaConf.merge(before, {"trainer": {"max_steps": 9}})
    remember_config(tmp_path, longer)  # type: ignore[arg-type]
    changed = OmegaConf.merge(before, {"stage": {"shift": 3.0}})
    with pytest.raises(ValueError, match=r"stage.shift=3.0 \(was 2.0\)"):
        remember_config(tmp_path, changed)  # type: ignore[arg-type]


def test_every_tensor_of_a_state_is_moved():
    """Also in frozen dataclasses, inside tuples and dictionaries."""
    state = {"stream": (3, Conditions(frame={"agent": torch.zeros(1, 1, 1)}), torch.zeros(2))}
    count, condition, tensor = moved(state, torch.device("meta"))["stream"]
    assert count == 3 and condition.agent.is_meta and tensor.is_meta and condition.user is None
