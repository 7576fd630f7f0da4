"""Updates in as many passes as they need: gradient accumulation, and their speed and loss in the log. The batch is
declared once, and computed on any number of devices."""

from collections import deque
from time import perf_counter
from typing import Any

import lightning as L
import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode

from data.steps import StepData
from train.measure import PRECISIONS, matmul_flops, measure_pass
from train.work import WorkBuilder

WINDOW = 20  # updates over which speed is averaged


class Accumulation(L.Callback):
    """Derives how many passes make an update, and lets a run go on with another number of them. A stage that steps its
    optimizers itself adds the passes up itself.

    Raises:
        ValueError: the batch cannot be divided so.
    """

    def setup(self, trainer: L.Trainer, pl_module: L.LightningModule, stage: str) -> None:
        passes = _data(trainer).split(trainer.world_size)[1]
        if pl_module.automatic_optimization:
            trainer.accumulate_grad_batches = passes

    def on_load_checkpoint(self, trainer: L.Trainer, pl_module: L.LightningModule, checkpoint: dict[str, Any]) -> None:
        """Count the run's passes as if they had always been as large as now: Lightning steps at multiples of them."""
        if not pl_module.automatic_optimization:
            return
        progress = checkpoint["loops"]["fit_loop"]["epoch_loop.batch_progress"]
        now = checkpoint["global_step"] * trainer.accumulate_grad_batches
        for counts in (progress["total"], progress["current"]):
            # One less is completed where the checkpoint was written by a callback.
            unfinished = min(1, counts["processed"] - counts["completed"])
            counts.update(ready=now, started=now, processed=now, completed=now - unfinished)


class Throughput(L.Callback):
    """Logs train/batch_loss (mean over passes and devices) and, averaged over the last updates, speed/step_ms,
    samples_per_s, tokens_per_s and mfu.

    mfu, model FLOP utilisation: operations of forward and backward without what checkpointing computes again, over what
    the device does when it only multiplies matrices (`device_flops`; None: measured).
    build: what a pass computes; without it, tokens and mfu are not known.
    """

    def __init__(self, *, build: WorkBuilder | None, precision: str, device_flops: float | None) -> None:
        self.build, self.precision, self.device_flops = build, precision, device_flops
        self.tokens, self.flops, self.batch_size, self.passes = 0, 0.0, 0, 1
        self._ends: deque[float] = deque(maxlen=WINDOW + 1)
        self._losses: list[Tensor] = []

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        data = _data(trainer)
        at_once, self.passes = data.split(trainer.world_size)
        self.batch_size = data.batch_size
        self._ends.clear()
        self._losses.clear()
        if self.build is None:
            return
        with FakeTensorMode(allow_non_fake_inputs=True):  # constants of modules, made on import
            work = self.build(batch_size=at_once)
            self.flops = self.passes * sum(measure_pass(work, one, self.precision)[1] for one in work.passes)
        self.tokens = work.tokens * self.passes * trainer.world_size
        if self.device_flops is None:
            self.device_flops = matmul_flops(PRECISIONS[self.precision], pl_module.device.type)

    def on_train_batch_end(
        self, trainer: L.Trainer, pl_module: L.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        if not pl_module.automatic_optimization and not trainer.datamodule.is_last_pass:  # type: ignore[attr-defined]
            return
        if pl_module.automatic_optimization:
            self._losses.append(outputs["loss"])
            if len(self._losses) < self.passes:
                return
            # Lightning hands out a pass's share of the loss, already divided by the passes.
            pl_module.log("train/batch_loss", torch.stack(self._losses).sum(), sync_dist=True)
            self._losses.clear()
        self._ends.append(perf_counter())
        if len(self._ends) > 1:
            seconds = (self._ends[-1] - self._ends[0]) / (len(self._ends) - 1)
            pl_module.log_dict({f"speed/{name}": value for name, value in self.speed(seconds).items()})

    def speed(self, seconds: float) -> dict[str, float]:
        """Speed of an update that took so many seconds."""
        found = {"step_ms": 1000 * seconds, "samples_per_s": self.batch_size / seconds}
        if self.device_flops and self.flops:
            found |= {"tokens_per_s": self.tokens / seconds, "mfu": self.flops / seconds / self.device_flops}
        return found


def _data(trainer: L.Trainer) -> StepData:
    data = trainer.datamodule  # type: ignore[attr-defined]  # set by fit(..., datamodule)
    assert isinstance(data, StepData), type(data)
    return data
