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
import torch.nn.functional as F
from torch import Tensor

from gwm.condition.inputs import nothing_given
from gwm.config import DiTConfig
from gwm.dit import DiT
from gwm.wan.files import SHARD_BYTES, chosen_checkpoint, read_tensors, tensor_names, transformer_part, write_tensors
from gwm.wan.geometry import read_geometry, to_diffusers
from gwm.wan.tensor_names import expected_tensors, layout_of
from gwm.weights import check_keys, write_json

PATCHES = "patch_embedding.weight"
ADDED = ("speech_encoder", "frame_embeddings")  # parts that Wan does not have
UNUSED = "norm_added_q"  # in some published I2V folders; diffusers leaves it out as well, nothing computes with it


def load_wan(path: Path, *, config: DiTConfig | None = None, dtype: torch.dtype = torch.float32) -> DiT:
    """A transformer with a checkpoint's tensors, all of them in `dtype`.

    `path`: a diffusers pipeline or its transformer/, a folder of the original release, or one tensor file or index. Of
    Wan 2.2 A14B, which has two transformers, the folder of one of them.

    Args:
        config: what the geometry must be; needed where no `config.json` says it. Frame conditions in it are added as
            by `with_conditions`.
        dtype: float32 for training, bfloat16 for serving on GPUs. A checkpoint may mix precisions, as diffusers' own
            do; the model computes in one.

    Raises:
        FileNotFoundError: there is no checkpoint.
        ValueError: `path` has two transformers; `config.json` differs from `config`, both are missing, or tensors are
            missing, foreign, misshaped, quantised or not finite.
    """
    part = transformer_part(path)
    checkpoint = chosen_checkpoint(part)
    asked = None if config is None else without_added(config)
    base = _agreed(checkpoint, asked, alone=part.is_file())
    own = to_gwm(read_tensors(checkpoint), base, source=str(checkpoint))
    with torch.device("meta"):
        model = DiT(base)
    model.load_state_dict({key: own.pop(key).to(dtype) for key in list(own)}, assign=True)
    return with_conditions(model, config or base)


def without_added(config: DiTConfig) -> DiTConfig:
    """The shape without what Wan does not have."""
    theirs = tuple(
        dataclasses.replace(spec, drop_rate=0.0, names=())
        for spec in config.conditions
        if spec.rate != "frame" and spec.encoder != "keyframes"
    )
    return dataclasses.replace(config, conditions=theirs, speech_mels=DiTConfig().speech_mels)


def with_conditions(model: DiT, config: DiTConfig) -> DiT:
    """The same tensors in a model of shape `config`, with the frame conditions and keyframes that it adds. Their last
    layers, and the columns of keyframes, are zero: until they are trained, every velocity is that of `model`.

    Raises:
        ValueError: the shapes differ in anything else.
    """
    differing = _differing(without_added(model.config), without_added(config))
    if differing:
        raise ValueError(
            f"config must differ from the model's in frame conditions and keyframes alone, and differs in {differing}."
        )
    with torch.device("meta"):
        extended = DiT(config)
    weights = model.state_dict()
    if wider := config.input_features - weights[PATCHES].shape[1]:  # keyframes, behind all other channels
        weights[PATCHES] = F.pad(weights[PATCHES], (0, wider))
    extended.load_state_dict(weights, assign=True, strict=False)  # what is left out is made below
    # What is added lies outside the blocks.
    fresh = DiT(dataclasses.replace(config, num_layers=0, control_layers=(), control_channels=0))
    for name, module in fresh.named_children():
        if name in ADDED:
            extended.add_module(name, module.to(model.head.weight))
    return extended


@torch.no_grad()
def without_conditions(model: DiT) -> DiT:
    """A Wan transformer that does what `model` does when no frame condition and no keyframe is given.

    What zeros add to the time embedding is the same at every noise level: it becomes part of a bias.
    """
    weights = model.state_dict()
    bias = weights["time_embedding.2.bias"]
    for part in model.added(nothing_given(model.config, 1, like=bias)):
        bias = bias + part[0, 0]
    with torch.device("meta"):
        plain = DiT(without_added(model.config))
    narrow = weights[PATCHES][:, : plain.config.input_features]  # no keyframes
    kept = {key: weights[key] for key in plain.state_dict()} | {"time_embedding.2.bias": bias, PATCHES: narrow}
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
    weights = {name: tensor for name, tensor in weights.items() if UNUSED not in name}
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


def _agreed(checkpoint: Path, config: DiTConfig | None, *, alone: bool) -> DiTConfig:
    """The geometry of the config.json beside a checkpoint. A file that was named `alone` need not belong to it, so what
    is asked for counts more there."""
    described = checkpoint.parent / "config.json"
    if config is not None and (alone or not described.is_file()):
        return config
    if not described.is_file():
        raise ValueError(f"{described} does not exist: pass the geometry, for instance model=wan2_1_1_3b.")
    found = read_geometry(described, names=tensor_names(checkpoint))
    if config is not None and found != config:
        other = _differing(found, config)
        raise ValueError(f"{described} has another geometry than asked for; (file, asked): {other}.")
    return found


def _differing(one: DiTConfig, other: DiTConfig) -> dict[str, tuple[Any, Any]]:
    pairs = zip(dataclasses.asdict(one).items(), dataclasses.asdict(other).values(), strict=True)
    return {name: (a, b) for (name, a), b in pairs if a != b}
