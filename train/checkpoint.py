"""Checkpoints that survive a full disk, and the rule by which a run is resumed."""

import dataclasses
import os
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from lightning.pytorch.plugins.io import TorchCheckpointIO
from omegaconf import DictConfig, OmegaConf

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

    Raises:
        ValueError: the run in this folder was started with other settings; the differing keys are named.
    """
    kept = output / "run.yaml"
    now = {k: v for k, v in _container(cfg).items() if k not in FREE_KEYS}
    if not kept.is_file():
        output.mkdir(parents=True, exist_ok=True)
        kept.write_text(OmegaConf.to_yaml(OmegaConf.create(now)))
        return
    before = _container(OmegaConf.load(kept))
    differing = sorted(_differences(before, now))
    if differing:
        raise ValueError(
            f"{output} was started with other settings: {', '.join(differing)}. Choose another name=..., or start "
            "over with resume=false."
        )


def _container(cfg: Any) -> dict[str, Any]:
    container = OmegaConf.to_container(cfg, resolve=True)
    assert isinstance(container, dict)
    return {str(k): v for k, v in container.items()}


def _differences(before: Any, now: Any, path: str = "") -> list[str]:
    if isinstance(before, dict) and isinstance(now, dict):
        keys = sorted(set(before) | set(now))
        return [d for k in keys for d in _differences(before.get(k), now.get(k), f"{path}.{k}" if path else str(k))]
    return [] if before == now else [f"{path}={now!r} (was {before!r})"]
