"""The log's numbers of speed belong together, and say what was declared."""

import itertools
from functools import partial
from typing import Any

import lightning as L
import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader, Dataset

from data.batch import PixelBatch, StepData
from tests.tiny import DIT
from train import work
from train.division import DividedBatch
from train.pace import Pace
from train.plan import plan

BATCH, STEP_S = 4, 0.05
BUILD = partial(work.geometry, DIT, num_frames=3, height=4, width=4, pattern=None)


class Numbers(Dataset[Any]):
    def __getitem__(self, key: tuple[int, int, int]) -> tuple[int, int, float]:
        step, slot, _ = key
        return step, slot, float(slot)


class Data(StepData):
    def train_dataloader(self) -> DataLoader[Any]:
        def collate(items: list[tuple[int, int, float]]) -> PixelBatch:
            frames = torch.tensor([value for *_, value in items])[:, None, None, None, None].expand(-1, 4, 3, 8, 8)
            return PixelBatch(frames, step=items[0][0], first_slot=items[0][1])

        return self.loader(Numbers(), 10, collate)


class Slow(L.LightningModule):
    """The loss is the mean slot."""

    def __init__(self, *, automatic: bool = True) -> None:
        super().__init__()
        self.weight, self.automatic_optimization = nn.Parameter(torch.zeros(())), automatic

    def training_step(self, batch: PixelBatch, batch_idx: int) -> torch.Tensor:
        return batch.pixel_frames.mean() + 0 * self.weight

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), lr=0.1)


@pytest.fixture(autouse=True)
def clock(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every look at it is STEP_S after the last one."""
    looks = itertools.count()
    monkeypatch.setattr("train.pace.perf_counter", lambda: STEP_S * next(looks))


def run(module: L.LightningModule, *, device_batch: int | None, build: Any = None) -> dict[str, float]:
    pace = Pace(build=build, precision="32-true", device_flops=1e9)
    trainer = L.Trainer(
        accelerator="cpu", max_steps=4, logger=False, enable_progress_bar=False, enable_model_summary=False,
        enable_checkpointing=False, callbacks=[DividedBatch(), pace],
    )  # fmt: skip
    trainer.fit(module, Data(shards=".", batch_size=BATCH, num_workers=0, seed=0, device_batch=device_batch))
    return {name: float(value) for name, value in trainer.callback_metrics.items()}


@pytest.mark.parametrize("device_batch", [None, 1])
def test_an_update_is_timed_with_all_its_passes(device_batch: int | None):
    found = run(Slow(), device_batch=device_batch, build=BUILD)
    assert found["train/batch_loss"] == pytest.approx((BATCH - 1) / 2)
    assert found["speed/step_ms"] == pytest.approx(1000 * STEP_S)
    assert found["speed/samples_per_s"] == pytest.approx(BATCH / STEP_S)
    planned = plan(
        BUILD, torch.optim.SGD, batch_size=BATCH, device_batch=device_batch, precision="32-true", devices=1,
        sharded=False, checkpointed=False, device_flops=1e9,
    )  # fmt: skip
    assert found["speed/tokens_per_s"] == pytest.approx(planned.tokens_per_step / STEP_S)
    assert found["speed/mfu"] == pytest.approx(planned.flops_per_step / STEP_S / 1e9)


def test_without_a_description_of_the_work_only_time_is_known():
    found = run(Slow(), device_batch=None)
    assert {name for name in found if name.startswith("speed/")} == {"speed/step_ms", "speed/samples_per_s"}


def test_a_stage_that_steps_its_own_optimizers_computes_its_batch_at_once():
    with pytest.raises(ValueError, match=r"device_batch=2 on 1 devices needs 2 passes an update, must need one: Slow"):
        run(Slow(automatic=False), device_batch=2)
