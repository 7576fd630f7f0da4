"""Checkpoints that survive a full disk, and the rule by which a run is resumed."""

import copy
import logging
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch.plugins.io import TorchCheckpointIO
from omegaconf import DictConfig, OmegaConf

log = logging.getLogger(__name__)

RUN_FILE, FREE = "run.yaml", "free"  # what a run was started with, and below which key what may change
# What may change between two starts of the same run: how long it goes on, on what, and what only watches it.
FREE_KEYS = (
    "trainer",
    "logger",
    "resume",
    "checkpoint",
    "progress",
    "pace",
    "finish",
    "plan",
    "planner",
    "work",
    "device_batch",
    "checkpoint_blocks",
)


class AtomicCheckpointIO(TorchCheckpointIO):
    """Write beside the old checkpoint, then take its place: the last good one survives whatever happens."""

    def save_checkpoint(self, checkpoint: dict[str, Any], path: str | Path, storage_options: Any = None) -> None:
        path = Path(path)
        path.parent.mkdir(parents=True, exist_ok=True)
        partial = path.with_suffix(".partial")
        try:
            with partial.open("wb") as file:
                torch.save(checkpoint, file)
                file.flush()
                os.fsync(file.fileno())
        except (OSError, RuntimeError) as error:
            partial.unlink(missing_ok=True)
            cause = error.__context__ if isinstance(error, RuntimeError) else error  # torch.save hides the disk's error
            if not isinstance(cause, OSError):
                raise
            raise OSError(
                cause.errno,
                f"checkpoint not written ({cause.strerror}); the last good one is kept. Free space, rerun",
                str(path),
            ) from error
        os.replace(partial, path)


def remember_config(output: Path, cfg: DictConfig) -> None:
    """Keep the run's configuration, or compare with what a started run was configured with.

    What follows from a free key, as the length of a schedule follows from `trainer.max_steps`, is no difference: the
    settings are compared as they would be with the free keys of the run's start.

    Raises:
        ValueError: the run in this folder was started with other settings; the differing keys are named.
    """
    kept = output / RUN_FILE
    if not kept.is_file():
        output.mkdir(parents=True, exist_ok=True)
    else:
        before = _container(OmegaConf.load(kept))
        free = before.pop(FREE, {})  # runs of older releases did not keep them
        differing = sorted(_differences(before, _compared(_with(cfg, free))))
        if differing:
            raise ValueError(
                f"{output} was started with other settings: {', '.join(differing)}. Choose another name=..., or start "
                "over with resume=false."
            )
        _say_length(output, free, cfg)
    free = {key: value for key, value in _container(cfg).items() if key in FREE_KEYS}
    kept.write_text(OmegaConf.to_yaml(OmegaConf.create({**_compared(cfg), FREE: free})))


def _say_length(output: Path, free: Mapping[str, Any], cfg: DictConfig) -> None:
    """A run that is to last for another number of steps than before changes its learning rates."""
    steps, before = cfg.trainer.max_steps, free.get("trainer", {}).get("max_steps")
    if before is not None and steps != before:
        log.warning(
            "%s: trainer.max_steps=%d (was %d). Where schedules follow it, learning rates go on from the next step as "
            "in a run of %d steps: they jump once, here. To keep those of before, name their length "
            "(stage.network.schedule_steps=%d); after it they are 0.",
            *(output, steps, before, steps, before),
        )


def _with(cfg: DictConfig, free: Mapping[str, Any]) -> DictConfig:
    """The same settings with other values of the free keys."""
    changed = copy.deepcopy(cfg)
    OmegaConf.set_struct(changed, False)
    for key, value in free.items():
        changed[key] = value
    return changed


def _compared(cfg: DictConfig) -> dict[str, Any]:
    return {key: value for key, value in _container(cfg).items() if key not in FREE_KEYS}


def _container(cfg: Any) -> dict[str, Any]:
    container = OmegaConf.to_container(cfg, resolve=True)
    assert isinstance(container, dict)
    return {str(k): v for k, v in container.items()}


def _differences(before: Any, now: Any, path: str = "") -> list[str]:
    if isinstance(before, dict) and isinstance(now, dict):
        keys = sorted(set(before) | set(now))
        return [d for k in keys for d in _differences(before.get(k), now.get(k), f"{path}.{k}" if path else str(k))]
    return [] if before == now else [f"{path}={now!r} (was {before!r})"]
