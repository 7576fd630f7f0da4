"""Wan checkpoints in and out: a diffusers folder, the original release, or a single file, to gwm's DiT and back.

Conditions that Wan does not have are added without disturbing it, and taken off again without losing what they do when
nothing is given. Wan counts noise in timesteps from 0 to 1000; gwm's `sigma` is a thousandth of them, and the DiT
multiplies it itself.
"""

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from gwm.condition.inputs import nothing_given
from gwm.config import DiTConfig
from gwm.dit import DiT
from gwm.wan.files import SHARD_BYTES, component, read_tensors, write_tensors
from gwm.wan.geometry import read_geometry, to_diffusers
from gwm.wan.keys import expected_tensors, layout_of
from gwm.weights import check_keys, write_json

ADDED = ("speech_encoder", "frame_embeddings")  # parts that Wan does not have


def load_wan(path: Path, *, config: DiTConfig | None = None) -> DiT:
    """A transformer with a checkpoint's tensors, in the checkpoint's own precision.

    `path`: a diffusers pipeline or its transformer/, a folder of the original release, or one tensor file.

    Args:
        config: what the geometry must be; needed where no `config.json` says it. Frame conditions in it are added as
            by `with_conditions`.

    Raises:
        FileNotFoundError: there is no checkpoint.
        ValueError: `config.json` differs from `config`, both are missing, or tensors are missing, foreign or misshaped;
            all of them are listed.
    """
    path = component(path, "transformer")
    base = _agreed(path, None if config is None else without_added(config))
    own = to_gwm(read_tensors(path), base, source=str(path))
    with torch.device("meta"):
        model = DiT(base)
    model.load_state_dict(own, assign=True)
    return with_conditions(model, config or base)


def without_added(config: DiTConfig) -> DiTConfig:
    """The shape without what Wan does not have."""
    theirs = tuple(
        dataclasses.replace(spec, drop_rate=0.0, names=()) for spec in config.conditions if spec.rate != "frame"
    )
    return dataclasses.replace(config, conditions=theirs, speech_mels=DiTConfig().speech_mels)


def with_conditions(model: DiT, config: DiTConfig) -> DiT:
    """The same tensors in a model of shape `config`, with the frame conditions that it adds. Their last layers are
    zero: until they are trained, every velocity is that of `model`.

    Raises:
        ValueError: the shapes differ in anything else.
    """
    differing = _differing(without_added(model.config), without_added(config))
    if differing:
        raise ValueError(f"config must differ from the model's in frame conditions alone, and differs in {differing}.")
    with torch.device("meta"):
        extended = DiT(config)
    extended.load_state_dict(model.state_dict(), assign=True, strict=False)  # what is left out is made below
    fresh = DiT(dataclasses.replace(config, num_layers=0))  # what is added lies outside the blocks
    for name, module in fresh.named_children():
        if name in ADDED:
            extended.add_module(name, module.to(model.head.weight))
    return extended


@torch.no_grad()
def without_conditions(model: DiT) -> DiT:
    """A Wan transformer that does what `model` does when no frame condition is given.

    What zeros add to the time embedding is the same at every noise level: it becomes part of a bias.
    """
    weights = model.state_dict()
    bias = weights["time_embedding.2.bias"]
    for part in model.added(nothing_given(model.config, 1, like=bias)):
        bias = bias + part[0, 0]
    with torch.device("meta"):
        plain = DiT(without_added(model.config))
    kept = {key: weights[key] for key in plain.state_dict()} | {"time_embedding.2.bias": bias}
    plain.load_state_dict(kept, assign=True)
    return plain


def save_diffusers(model: DiT, folder: Path, *, shard_bytes: int = SHARD_BYTES) -> None:
    """Write a folder that diffusers' `WanTransformer3DModel.from_pretrained` reads.

    Raises:
        ValueError: the model has parts that Wan does not have (frame conditions); all their tensors are listed.
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
        other = _differing(found, config)
        raise ValueError(f"{path}/config.json has another geometry than asked for; (file, asked): {other}.")
    return found or config  # type: ignore[return-value]  # one of them is there


def _differing(one: DiTConfig, other: DiTConfig) -> dict[str, tuple[Any, Any]]:
    pairs = zip(dataclasses.asdict(one).items(), dataclasses.asdict(other).values(), strict=True)
    return {name: (a, b) for (name, a), b in pairs if a != b}
