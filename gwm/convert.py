"""Wan checkpoints in and out: a diffusers folder, the original release, or a single file, to gwm's DiT and back.

Wan counts noise in timesteps from 0 to 1000; gwm's `sigma` is a thousandth of them, and the DiT multiplies it itself.
"""

import dataclasses
from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor

from gwm.config import DiTConfig
from gwm.dit import DiT
from gwm.wan.files import SHARD_BYTES, component, read_tensors, write_tensors
from gwm.wan.geometry import read_geometry, to_diffusers
from gwm.wan.keys import expected_tensors, layout_of
from gwm.weights import check_keys, write_json


def load_wan(path: Path, *, config: DiTConfig | None = None) -> DiT:
    """A transformer with a checkpoint's tensors, in the checkpoint's own precision.

    `path`: a diffusers pipeline or its transformer/, a folder of the original release, or one tensor file.

    Args:
        config: what the geometry must be; needed where no `config.json` says it.

    Raises:
        FileNotFoundError: there is no checkpoint.
        ValueError: `config.json` differs from `config`, both are missing, or tensors are missing, foreign or misshaped;
            all of them are listed.
    """
    path = component(path, "transformer")
    config = _agreed(path, config)
    weights = read_tensors(path)
    own = to_gwm(weights, config, source=str(path))
    with torch.device("meta"):
        model = DiT(config)
    model.load_state_dict(own, assign=True)
    return model.requires_grad_(True)


def save_diffusers(model: DiT, folder: Path, *, shard_bytes: int = SHARD_BYTES) -> None:
    """Write a folder that diffusers' `WanTransformer3DModel.from_pretrained` reads.

    Raises:
        ValueError: the model has parts that Wan does not have (voices, actions); all their tensors are listed.
    """
    weights = to_foreign(model)
    folder.mkdir(parents=True, exist_ok=True)
    write_tensors(folder, weights, shard_bytes=shard_bytes)
    write_json(folder / "config.json", to_diffusers(model.config))


def to_gwm(weights: Mapping[str, Tensor], config: DiTConfig, *, source: str) -> dict[str, Tensor]:
    """Tensors of either layout by gwm's keys, in gwm's shapes; views, not copies.

    Raises:
        ValueError: as `load_wan`.
    """
    expected = expected_tensors(config, layout_of(weights, source=source))
    check_keys(weights, {name: empty for name, (_, empty) in expected.items()}, source=source)
    with torch.device("meta"):
        shapes = {key: tensor.shape for key, tensor in DiT(config).state_dict().items()}
    return {key: weights[name].reshape(shapes[key]) for name, (key, _) in expected.items()}


def to_foreign(model: DiT) -> dict[str, Tensor]:
    """The model's tensors by diffusers' names, in diffusers' shapes.

    Raises:
        ValueError: as `save_diffusers`.
    """
    own = model.state_dict()
    expected = expected_tensors(model.config, "diffusers")
    return {name: own[key].reshape(empty.shape) for name, (key, empty) in expected.items()}


def _agreed(path: Path, config: DiTConfig | None) -> DiTConfig:
    found = read_geometry(path / "config.json") if (path / "config.json").is_file() else None
    if found is None and config is None:
        raise ValueError(f"{path} has no config.json: pass the geometry, for instance model=wan2_1_1_3b.")
    if found is not None and config is not None and found != config:
        pairs = zip(dataclasses.asdict(found).items(), dataclasses.asdict(config).values(), strict=True)
        other = {name: (in_file, asked) for (name, in_file), asked in pairs if in_file != asked}
        raise ValueError(f"{path}/config.json has another geometry than asked for; (file, asked): {other}.")
    return found or config  # type: ignore[return-value]  # one of them is there
