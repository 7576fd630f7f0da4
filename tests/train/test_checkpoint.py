"""A checkpoint is written whole or not at all, and a run goes on only as it began."""

import errno
import os
from pathlib import Path

import pytest
import torch
from omegaconf import OmegaConf

from train.checkpoint import AtomicCheckpointIO, remember_config


def full_disk(_descriptor: int) -> None:
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def test_a_full_disk_keeps_the_last_good_checkpoint(tmp_path: Path, monkeypatch):
    path, io = tmp_path / "last.ckpt", AtomicCheckpointIO()
    io.save_checkpoint({"step": torch.tensor(1)}, path)
    monkeypatch.setattr(os, "fsync", full_disk)
    with pytest.raises(OSError, match="last good one is kept"):
        io.save_checkpoint({"step": torch.tensor(2)}, path)
    assert torch.load(path)["step"] == 1
    assert [file.name for file in tmp_path.iterdir()] == ["last.ckpt"]


def test_other_settings_are_named(tmp_path: Path):
    before = OmegaConf.create({"seed": 0, "stage": {"shift": 2.0}, "trainer": {"max_steps": 5}})
    remember_config(tmp_path, before)
    longer = OmegaConf.merge(before, {"trainer": {"max_steps": 9}})
    remember_config(tmp_path, longer)  # type: ignore[arg-type]
    changed = OmegaConf.merge(before, {"stage": {"shift": 3.0}})
    with pytest.raises(ValueError, match=r"stage.shift=3.0 \(was 2.0\)"):
        remember_config(tmp_path, changed)  # type: ignore[arg-type]
