"""The log's numbers of speed belong together, and say what was declared."""

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
from train.plan import PlannedRun, plan
from train.throughput import Accumulation, Throughput

BATCH, PASS_S = 4, 0.05
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


class Clock:
    """A pass takes PASS_S."""

    passes = 0

    def __call__(self) -> float:
        return PASS_S * self.passes


clock = Clock()


class Slow(L.LightningModule):
    """The loss is the mean slot."""

    def __init__(self, *, automatic: bool = True) -> None:
        super().__init__()
        self.weight, self.automatic_optimization = nn.Parameter(torch.zeros(())), automatic

    def training_step(self, batch: PixelBatch, batch_idx: int) -> torch.Tensor:
        clock.passes += 1
        return batch.pixel_frames.mean() + 0 * self.weight

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), lr=0.1)


class StepsItself(Slow):
    """Steps its optimizer after the last pass of an update."""

    def __init__(self) -> None:
        super().__init__(automatic=False)

    def training_step(self, batch: PixelBatch, batch_idx: int) -> torch.Tensor:
        loss = super().training_step(batch, batch_idx)
        self.manual_backward(loss)
        if self.trainer.datamodule.is_last_pass:  # type: ignore[attr-defined]
            optimizer = self.optimizers()
            optimizer.step()  # type: ignore[union-attr]
            optimizer.zero_grad()  # type: ignore[union-attr]
        return loss


@pytest.fixture(autouse=True)
def turned(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("train.throughput.perf_counter", clock)


def run(module: L.LightningModule, *, device_batch: int | None, build: Any = None) -> dict[str, float]:
    throughput = Throughput(build=build, precision="32-true", device_flops=1e9)
    trainer = L.Trainer(
        accelerator="cpu", max_steps=4, logger=False, enable_progress_bar=False, enable_model_summary=False,
        enable_checkpointing=False, callbacks=[Accumulation(), throughput],
    )  # fmt: skip
    trainer.fit(module, Data(shards=".", batch_size=BATCH, num_workers=0, seed=0, device_batch=device_batch))
    return {name: float(value) for name, value in trainer.callback_metrics.items()}


@pytest.mark.parametrize("device_batch", [None, 1])
def test_an_update_is_timed_with_all_its_passes(device_batch: int | None):
    found = run(Slow(), device_batch=device_batch, build=BUILD)
    step_s = PASS_S * BATCH / (device_batch or BATCH)
    assert found["train/batch_loss"] == pytest.approx((BATCH - 1) / 2)
    assert found["speed/step_ms"] == pytest.approx(1000 * step_s)
    assert found["speed/samples_per_s"] == pytest.approx(BATCH / step_s)
    planned = plan(
        BUILD, torch.optim.SGD, PlannedRun(
            batch_size=BATCH, device_batch=device_batch, precision="32-true", devices=1, sharded=False,
            checkpointed=False, device_flops=1e9,
        )
    )  # fmt: skip
    assert found["speed/tokens_per_s"] == pytest.approx(planned.tokens_per_step / step_s)
    assert found["speed/mfu"] == pytest.approx(planned.flops_per_step / step_s / 1e9)


def test_without_a_description_of_the_work_only_time_is_known():
    found = run(Slow(), device_batch=None)
    assert {name for name in found if name.startswith("speed/")} == {"speed/step_ms", "speed/samples_per_s"}


def test_a_stage_that_steps_its_own_optimizers_is_timed_by_its_updates():
    """As student forcing: gradients of two passes, then a step."""
    found = run(StepsItself(), device_batch=2)
    assert found["speed/step_ms"] == pytest.approx(1000 * 2 * PASS_S)
