"""Speed of training in the log, and the loss of the whole batch."""

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
        data = trainer.datamodule  # type: ignore[attr-defined]  # set by fit(..., datamodule)
        assert isinstance(data, StepData), type(data)
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
