"""A checkpoint is written whole or not at all, and a run goes on only as it began."""

import errno
import logging
import os
import resource
from pathlib import Path

import pytest
import torch
from omegaconf import DictConfig, OmegaConf

from gwm.condition.inputs import Conditions
from train.checkpoint import AtomicCheckpointIO, moved, read_checkpoint, remember_config
from train.learner import warmup_cosine


def assert_kept(folder: Path) -> None:
    """The old checkpoint is whole, and nothing lies beside it and fills the disk."""
    assert torch.load(folder / "last.ckpt")["step"] == 1
    assert [file.name for file in folder.iterdir()] == ["last.ckpt"]


@pytest.mark.parametrize("room_bytes", [0, 100, 5_000, 300_000])
def test_a_full_disk_keeps_the_last_good_checkpoint(tmp_path: Path, room_bytes: int):
    """The size limit of a process stands in for the end of the disk: torch.save fails early, in the middle or late."""
    path, io = tmp_path / "last.ckpt", AtomicCheckpointIO()
    io.save_checkpoint({"step": torch.tensor(1), "state_dict": {}}, path)
    assert_kept(tmp_path)
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (room_bytes, hard))
    try:
        with pytest.raises(OSError, match="last good one is kept"):
            io.save_checkpoint({"step": torch.tensor(2), "state_dict": {"w": torch.ones(100_000)}}, path)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert_kept(tmp_path)


def test_a_disk_that_fills_up_while_flushing_keeps_the_last_good_checkpoint(tmp_path: Path, monkeypatch):
    def full_disk(_descriptor: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    path, io = tmp_path / "last.ckpt", AtomicCheckpointIO()
    io.save_checkpoint({"step": torch.tensor(1), "state_dict": {}}, path)
    monkeypatch.setattr(os, "fsync", full_disk)
    with pytest.raises(OSError, match="last good one is kept"):
        io.save_checkpoint({"step": torch.tensor(2), "state_dict": {}}, path)
    assert_kept(tmp_path)


def test_a_diverged_model_does_not_replace_the_last_good_checkpoint(tmp_path: Path):
    path, io = tmp_path / "last.ckpt", AtomicCheckpointIO()
    io.save_checkpoint({"step": torch.tensor(1), "state_dict": {"w": torch.ones(2)}}, path)
    with pytest.raises(
        ValueError, match=r"last\.ckpt is not written and an older one is kept: 1 of 1 tensors.* w \(2 of 2"
    ):
        io.save_checkpoint({"step": torch.tensor(2), "state_dict": {"w": torch.full((2,), float("nan"))}}, path)
    assert_kept(tmp_path)


@pytest.mark.parametrize("mmap", [False, True])
@pytest.mark.parametrize("kept", [0, 100, -100])
def test_a_truncated_checkpoint_is_named_with_the_way_out(tmp_path: Path, kept: int, mmap: bool):
    path = tmp_path / "last.ckpt"
    AtomicCheckpointIO().save_checkpoint({"state_dict": {"w": torch.ones(1000)}}, path)
    assert read_checkpoint(path, mmap=mmap)["state_dict"]["w"].sum() == 1000
    path.write_bytes(path.read_bytes()[:kept])
    with pytest.raises(ValueError, match=r"last\.ckpt .*(empty|truncated).*delete it: the stage then starts") as error:
        read_checkpoint(path, mmap=mmap)
    assert "\n" not in str(error.value)


def test_a_checkpoint_of_a_diverged_model_is_not_gone_on_with(tmp_path: Path):
    torch.save({"state_dict": {"w": torch.tensor([float("inf")])}}, tmp_path / "last.ckpt")
    with pytest.raises(ValueError, match=r"last\.ckpt: 1 of 1 tensors"):
        AtomicCheckpointIO().load_checkpoint(tmp_path / "last.ckpt")


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
    assert count == 3 and condition["agent"].is_meta and tensor.is_meta


def run_of(steps: int, **changes: object) -> DictConfig:
    """Settings of which one follows from a free one, as the length of a schedule does; a struct, as Hydra makes it."""
    stage = {"shift": 2.0, "schedule_steps": "${trainer.max_steps}", **changes}
    cfg = OmegaConf.create({"seed": 0, "stage": stage, "trainer": {"max_steps": steps}})
    OmegaConf.set_struct(cfg, True)
    return cfg


def test_a_run_may_go_on_for_longer_and_says_what_its_schedule_does(tmp_path: Path, caplog):
    remember_config(tmp_path, run_of(8))
    with caplog.at_level(logging.WARNING):
        remember_config(tmp_path, run_of(10))
    assert "trainer.max_steps=10 (was 8)" in caplog.text and "schedule_steps=8" in caplog.text
    caplog.clear()
    remember_config(tmp_path, run_of(10))  # which is what it is now
    assert not caplog.text


def test_a_longer_run_may_keep_its_schedule_but_not_get_another_one(tmp_path: Path):
    remember_config(tmp_path, run_of(8))
    remember_config(tmp_path, run_of(10, schedule_steps=8))
    with pytest.raises(ValueError, match=r"stage.schedule_steps=9 \(was 8\)"):
        remember_config(tmp_path, run_of(10, schedule_steps=9))


@pytest.mark.parametrize("total", [8, 12])
def test_a_resumed_rate_is_that_of_the_present_schedule(total: int):
    """Also right after the end of a shorter one, where the checkpoint has a rate of 0; and equal where nothing
    changed."""

    def scheduler(steps: int):
        optimizer = torch.optim.SGD([torch.nn.Parameter(torch.ones(1))], lr=0.3)
        return warmup_cosine(optimizer, warmup_steps=2, total_steps=steps)["lr_scheduler"]["scheduler"]

    first, expected, resumed = scheduler(8), scheduler(total), scheduler(total)
    for _ in range(8):
        first.optimizer.step(), first.step()
        expected.optimizer.step(), expected.step()
    resumed.optimizer.load_state_dict(first.optimizer.state_dict())
    resumed.load_state_dict(first.state_dict())
    assert resumed.optimizer.param_groups[0]["lr"] == expected.optimizer.param_groups[0]["lr"]
    assert first.optimizer.param_groups[0]["lr"] == 0
