"""Measures of a distillation that change before the pictures do, the alarm that stops a collapse, and measures of
held-out clips in the middle of a run; the same as those of the gate at its end."""

import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import lightning as L
import torch
from jaxtyping import Float, Int
from lightning.pytorch.utilities.seed import isolate_rng
from torch import Tensor

from distill.dmd import ScoredClip
from gwm.metrics.judge import Judge
from train.gate import held_out, measure

log = logging.getLogger(__name__)

SATURATED = 3.0  # deviations of the data; latents are normalised to 1


class CollapseError(RuntimeError):
    """The alarm has stopped a run."""


def score_health(scored: ScoredClip) -> dict[str, Tensor]:
    """Measures of the scores that a student's update uses.

    critic_lag: flow loss of the critic over the teacher's on the student's clips. A critic that keeps up knows them
    better than the teacher does: below 1. Above 1 the direction points away from where the student was, not is.
    """
    return {
        "critic_lag": scored.critic_lag,
        "dmd_norm": scored.direction.square().mean().sqrt(),
        "dmd_scale": scored.scale.mean(),
    }


@torch.no_grad()
def clip_health(
    x0: Float[Tensor, "b f c h w"], data: Float[Tensor, "b g c h w"], *, chunk_frames: int
) -> dict[str, Tensor]:
    """Statistics of generated clips; most are ratios to those of `data`, where 1 is as in the data.

    mean_chunk*, std_chunk*: drift along the rollout. std_of_data: brightness and contrast running away, or fading.
    motion_of_data: mean change from frame to frame; falls when a student learns to stand still. saturation: share of
    latents beyond three deviations.
    """
    x0, data = x0.float(), data.float()
    chunks = x0.unflatten(1, (-1, chunk_frames)).transpose(0, 1).flatten(1)
    found = {
        "std_of_data": x0.std() / data.std().clamp(min=1e-6),
        "motion_of_data": _motion(x0) / _motion(data).clamp(min=1e-6),
        "saturation": (x0.abs() > SATURATED).float().mean(),
    }
    for number, (mean, std) in enumerate(zip(chunks.mean(1), chunks.std(1), strict=True)):
        found |= {f"mean_chunk{number}": mean, f"std_chunk{number}": std}
    return found


def exit_shares(counts: Int[Tensor, "k"]) -> dict[str, Tensor]:
    """Share of rollouts that left after each step, so far."""
    return {f"exit{step}": share for step, share in enumerate(counts / counts.sum().clamp(min=1))}


def _motion(x0: Tensor) -> Tensor:
    return x0.diff(dim=1).abs().mean() if x0.shape[1] > 1 else x0.new_zeros(())


class CollapseAlarm(L.Callback):
    """Stops a run whose measures stay outside their limits, and keeps a checkpoint from before.

    limits: lowest and highest healthy value by the measure's name; a measure that is not finite is outside.
    stop_after_updates: student updates in a row with a measure outside. save_every_updates: student updates between two
    checkpoints, which are made of healthy states alone.
    """

    def __init__(
        self,
        *,
        folder: str,
        limits: Mapping[str, Sequence[int | float]],
        stop_after_updates: int,
        save_every_updates: int,
    ) -> None:
        for name, updates in (("stop_after_updates", stop_after_updates), ("save_every_updates", save_every_updates)):
            if updates < 1:
                raise ValueError(f"alarm.{name}={updates} must be >= 1. Set stage.alarm=null to turn the alarm off.")
        self.good = Path(folder) / "good.ckpt"
        self.limits = limits
        self.stop_after_updates, self.save_every_updates = stop_after_updates, save_every_updates
        self.outside = dict.fromkeys(limits, 0)
        self.updates = 0
        self.good_step: int | None = None

    def state_dict(self) -> dict[str, Any]:
        return {"outside": dict(self.outside), "updates": self.updates, "good_step": self.good_step}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.outside = {name: state_dict["outside"].get(name, 0) for name in self.limits}
        self.updates, self.good_step = state_dict["updates"], state_dict["good_step"]

    def on_train_batch_end(
        self, trainer: L.Trainer, pl_module: L.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        stage: Any = pl_module
        found = stage.health  # of this step; None without a student update
        if found is None:
            return
        unknown = sorted(set(self.limits) - set(found))
        if unknown:
            raise ValueError(f"limits={unknown} must be among {sorted(found)}: what is measured.")
        values = {name: float(found[name]) for name in self.limits}
        self.updates += 1
        for name, (low, high) in self.limits.items():
            self.outside[name] = 0 if low <= values[name] <= high else self.outside[name] + 1  # NaN is outside
        broken = [name for name, times in self.outside.items() if times >= self.stop_after_updates]
        # One rank's alarm is everybody's: the others would wait for it in their next collective for ever.
        if trainer.strategy.reduce_boolean_decision(bool(broken), all=False):
            raise CollapseError(self._message(broken, values, batch.step))
        healthy = trainer.strategy.reduce_boolean_decision(not any(self.outside.values()), all=True)
        if healthy and self.updates % self.save_every_updates == 0:
            self.good_step = batch.step
            trainer.save_checkpoint(self.good)

    def _message(self, broken: list[str], values: dict[str, float], step: int) -> str:
        what = "; ".join(
            f"{name}={values[name]:.4g} must be in [{self.limits[name][0]:g}, {self.limits[name][1]:g}]"
            for name in broken
        )
        kept = (
            f"The last good state, of step {self.good_step}, is {self.good}"
            if self.good_step is not None
            else "No state was good"
        )
        return (
            f"collapse at step {step}: {what or 'another rank broke a limit'}, for {self.stop_after_updates} student "
            f"updates. {kept}. Lower stage.student.optimizer.lr or raise stage.critic_per_student and start "
            "anew (name=...). A limit that your data does not obey is changed under stage.alarm.limits."
        )


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
