"""Measures of held-out clips in the middle of a run; the same as those of the gate at its end."""

import logging
from typing import Any

import lightning as L
from lightning.pytorch.utilities.seed import isolate_rng

from gwm.metrics.judge import Judge
from train.gate import held_out, measure

log = logging.getLogger(__name__)

CLIPS = 2  # the same ones every time
MEASURES = ("lip_sync", "identity", "motion", "saturation")


class Validation(L.Callback):
    """After every `every`-th student update, and the first, plays the student's EMA on held-out clips.

    Logged as health/val_*. Training does not notice: no random state moves, and nothing is kept.
    """

    def __init__(self, *, every: int) -> None:
        if every < 1:
            raise ValueError(f"validate_every={every} must be >= 1 student updates, or 0 for none.")
        self.every = every

    def on_fit_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        data: Any = trainer.datamodule  # type: ignore[attr-defined]  # set by fit(..., datamodule)
        with isolate_rng():
            self.judge, self.clips = Judge(thorough=False), held_out(data.shards, data.resolution, CLIPS)
        if not self.clips:
            log.warning("validate_every=%d sees nothing: %s holds out nobody who speaks.", self.every, data.shards)

    def on_train_batch_end(
        self, trainer: L.Trainer, pl_module: L.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        stage: Any = pl_module
        update, rest = divmod(batch.step, stage.critic_per_student)
        last_pass = trainer.datamodule.is_last_pass  # type: ignore[attr-defined]
        if rest or update % self.every or not self.clips or not last_pass:
            return
        with isolate_rng():
            found = self.look(stage, trainer.datamodule)  # type: ignore[attr-defined]
        # Not through the stage's log: that drops what falls between two of its steps.
        for logger in trainer.loggers:
            logger.log_metrics({f"health/val_{name}": value for name, value in found.items()}, step=batch.step)

    def look(self, stage: Any, data: Any) -> dict[str, float]:
        """Measures of the clips as the student's EMA plays them now."""
        model = stage.network.ema_model
        training = model.training
        played = stage.decode(model.eval(), self.clips, data, batch_size=len(self.clips))
        model.train(training)
        found = measure(self.judge, played, self.clips, chunk_frames=stage.contract.chunk_pixel_frames)
        return {name: found[name] for name in MEASURES if name in found}
