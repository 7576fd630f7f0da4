"""Gradient accumulation: the batch is declared once and computed on any number of devices in as many passes as it
needs."""

from typing import Any

import lightning as L

from data.steps import StepData


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


def _data(trainer: L.Trainer) -> StepData:
    data = trainer.datamodule  # type: ignore[attr-defined]  # set by fit(..., datamodule)
    assert isinstance(data, StepData), type(data)
    return data
