"""A run ends at the first number that is not finite, and nothing is written after it."""

import math
from functools import partial
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import lightning as L
import pytest
import torch
from lightning.pytorch.callbacks import ModelCheckpoint

from tests.train.devices import LatentsInMemory
from tests.train.test_resume import BATCH, stage, weights
from train.checkpoint import AtomicCheckpointIO
from train.finite import FiniteNumbers, NotFiniteError


class Damaged(LatentsInMemory):
    """From step 5 on, a latent of the first sample, and of its reference, is not a number on one of the devices."""

    rank = 0

    def on_after_batch_transfer(self, batch: Any, dataloader_idx: int) -> Any:
        if batch.step >= 5 and self.trainer is not None and self.trainer.global_rank == self.rank:
            batch.x0[0, 0, 0, 0, 0] = batch.reference[0, 0, 0, 0, 0] = math.nan
        return super().on_after_batch_transfer(batch, dataloader_idx)


def run(module: L.LightningModule, output: Path, data: type[LatentsInMemory], devices: int = 1) -> None:
    """Train for twelve steps as train.py does, with a checkpoint, the last one, at every second."""
    checkpoint = ModelCheckpoint(output, filename="last", every_n_train_steps=2, enable_version_counter=False)
    trainer = L.Trainer(
        accelerator="cpu", devices=devices, strategy="ddp" if devices > 1 else "auto", max_steps=12, max_epochs=-1,
        logger=False, enable_progress_bar=False, enable_model_summary=False, use_distributed_sampler=False,
        callbacks=[FiniteNumbers(output), checkpoint], plugins=[AtomicCheckpointIO()],
    )  # fmt: skip
    trainer.fit(module, data(shards=".", batch_size=BATCH, num_workers=0, seed=0), weights_only=False)
    trainer.save_checkpoint(output / "last.ckpt")


def kept_step(output: Path) -> int:
    """Of the last checkpoint, all of whose weights and averages are finite."""
    checkpoint = torch.load(output / "last.ckpt", weights_only=False)
    assert all(value.isfinite().all() for value in checkpoint["state_dict"].values())
    return checkpoint["global_step"]


def test_training_stops_at_a_loss_that_is_no_number_and_keeps_its_checkpoint(tmp_path: Path):
    with pytest.raises(NotFiniteError, match=r"stage=causal stopped at step 5: loss not finite.*last\.ckpt, is kept"):
        run(stage("causal", weights(tmp_path)), tmp_path / "causal", Damaged)
    assert kept_step(tmp_path / "causal") == 4


def test_every_optimizer_of_a_distillation_is_watched(tmp_path: Path):
    """Steps count the updates of both: batch 5 comes with the seventh."""
    with pytest.raises(NotFiniteError, match=r"stage=dmd stopped at step [67]: .* not finite"):
        run(stage("dmd", weights(tmp_path)), tmp_path / "dmd", Damaged)
    assert kept_step(tmp_path / "dmd") <= 6


def test_a_learning_rate_that_destroys_the_weights_leaves_no_checkpoint_of_them(tmp_path: Path):
    module: Any = stage("causal", weights(tmp_path))
    module.network._optimizer = partial(torch.optim.AdamW, lr=1e30)
    with pytest.raises(NotFiniteError, match=r"stopped at step \d+"):
        run(module, tmp_path / "causal", LatentsInMemory)
    assert not (tmp_path / "causal" / "last.ckpt").is_file() or kept_step(tmp_path / "causal") <= 2


MODULE = Mock(spec=L.LightningModule, device=torch.device("cpu"))


def watched(tmp_path: Path, *, others: bool = False) -> tuple[FiniteNumbers, Any]:
    """A callback, and a trainer at step 3 whose other devices have met something or not."""
    trainer = Mock(spec=L.Trainer, global_step=3, log_every_n_steps=10)
    trainer.strategy.reduce_boolean_decision = lambda decision, all: decision or others
    callback = FiniteNumbers(tmp_path / "dmd")
    callback.on_train_start(trainer, MODULE)
    return callback, trainer


def test_an_average_that_is_infinite_is_not_written(tmp_path: Path):
    callback, trainer = watched(tmp_path)
    state = {"critic.model.w": torch.ones(2), "critic.average.w": torch.tensor([1.0, math.inf])}
    with pytest.raises(NotFiniteError, match=r"step 3: 1 of 2 tensors \(critic\.average\.w\) not finite"):
        callback.on_save_checkpoint(trainer, MODULE, {"state_dict": state})


def test_the_first_step_is_told_however_late_it_is_read(tmp_path: Path):
    callback, trainer = watched(tmp_path)
    for trainer.global_step, loss in ((4, 1.0), (5, math.inf), (6, math.nan), (7, 1.0)):
        callback.on_before_backward(trainer, MODULE, torch.tensor(loss))
    with pytest.raises(NotFiniteError, match="stopped at step 5: loss"):
        callback.check(trainer)


def test_a_gradient_is_looked_at_before_it_moves_the_weights(tmp_path: Path):
    callback, trainer = watched(tmp_path)
    weight = torch.nn.Parameter(torch.ones(2))
    weight.grad = torch.tensor([1.0, math.inf])
    with pytest.raises(NotFiniteError, match="stopped at step 3: gradient norm"):
        callback.on_before_optimizer_step(trainer, MODULE, torch.optim.SGD([weight], lr=1.0))


def test_a_device_stops_with_another(tmp_path: Path):
    callback, trainer = watched(tmp_path, others=True)
    with pytest.raises(NotFiniteError, match="on another device"):
        callback.check(trainer)


class DamagedOnOne(Damaged):
    rank = 1


def stops_on_both(output: Path, folders: dict[str, str]) -> None:
    """For a pair of processes; each leaves a file."""
    with pytest.raises(NotFiniteError, match="stopped at step 5"):
        run(stage("causal", folders), output, DamagedOnOne, devices=2)
    (output / f"stopped{torch.distributed.get_rank()}").touch()
