"""Checkpoints that survive a full disk, and the rule by which a run is resumed."""

import copy
import dataclasses
import logging
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from lightning.pytorch.plugins.io import TorchCheckpointIO
from omegaconf import DictConfig, OmegaConf

from gwm.files.outputs import whole_file
from gwm.files.tensors import check_finite, read_pickle

log = logging.getLogger(__name__)

RUN_FILE, FREE = "run.yaml", "free"  # what a run was started with, and below which key what may change
# What may change between two starts of the same run: how long it goes on, on what, and what only watches it.
FREE_KEYS = (
    "trainer",
    "logger",
    "resume",
    "checkpoint",
    "progress",
    "throughput",
    "finish",
    "plan",
    "quality",
    "planner",
    "work",
    "device_batch",
    "checkpoint_blocks",
)


def read_checkpoint(path: str | Path, *, mmap: bool = False) -> dict[str, Any]:
    """A checkpoint of the project's own, on the CPU. It holds Python objects: never read one of unknown origin.

    Raises:
        FileNotFoundError: there is none.
        ValueError: it is damaged, or its weights have values that are not finite.
    """
    remedy = "Put a copy of it back, or delete it: the stage then starts from its first step."
    checkpoint = read_pickle(Path(path), remedy=remedy, trusted=True, mmap=mmap)
    check_finite(checkpoint["state_dict"], source=str(path))
    return checkpoint


class AtomicCheckpointIO(TorchCheckpointIO):
    """Write beside the old checkpoint, then take its place: the last good one survives whatever happens."""

    def load_checkpoint(self, path: str | Path, map_location: Any = None, weights_only: bool | None = None) -> Any:
        return read_checkpoint(path)

    def save_checkpoint(self, checkpoint: dict[str, Any], path: str | Path, storage_options: Any = None) -> None:
        """Write the checkpoint beside the older one, then replace it.

        Raises:
            ValueError: a weight is not finite; the older checkpoint stays.
            OSError: the disk is full; likewise.
        """
        path = Path(path)
        check_finite(checkpoint["state_dict"], source=f"{path} is not written and an older one is kept")
        try:
            with whole_file(path) as partial, partial.open("wb") as file:
                torch.save(checkpoint, file)
                file.flush()
                os.fsync(file.fileno())
        except (OSError, RuntimeError) as error:
            cause = error.__context__ if isinstance(error, RuntimeError) else error  # torch.save hides the disk's error
            if not isinstance(cause, OSError):
                raise
            raise OSError(
                cause.errno,
                f"checkpoint not written ({cause.strerror}); the last good one is kept. Free space, rerun",
                str(path),
            ) from error


def moved(state: Any, device: torch.device) -> Any:
    """`state` with every tensor on `device`: in tuples, dictionaries and dataclasses, also frozen ones."""
    if isinstance(state, torch.Tensor):
        return state.to(device)
    if isinstance(state, tuple):
        return tuple(moved(part, device) for part in state)
    if isinstance(state, dict):
        return {name: moved(part, device) for name, part in state.items()}
    if dataclasses.is_dataclass(state) and not isinstance(state, type):
        parts = {field.name: moved(getattr(state, field.name), device) for field in dataclasses.fields(state)}
        return dataclasses.replace(state, **parts)
    return state


def gathered(state: Any) -> list[Any]:
    """The states of all devices in the order of their ranks, on the first one, which writes the checkpoint; nothing on
    the others. They travel, and lie until they are written, in the host's memory. All devices must call it."""
    if not (dist.is_available() and dist.is_initialized()):
        return [state]
    group = dist.new_group(backend="gloo")
    assert isinstance(group, dist.ProcessGroup), "a group of all processes has this one"
    states: list[Any] | None = [None] * dist.get_world_size() if dist.get_rank() == 0 else None
    dist.gather_object(state, states, group=group)
    dist.destroy_process_group(group)
    return states or []


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
    """Warn that a run with another number of steps than before changes its learning rates."""
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
