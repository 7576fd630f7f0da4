"""Weights between stages: a folder with `weights.safetensors` and a `config.json` that rebuilds the model."""

import hashlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensor

from gwm.files.json_text import json_text
from gwm.files.outputs import whole_file, write_tensors
from gwm.files.tensors import check_finite, read_json, read_tensor_file

FORMAT, VERSION = "gwm-weights", 1
AGAIN = "Copy the whole folder again, or run the stage that wrote it."
NAMES_SHOWN = 6  # of tensors that do not fit; the rest is counted


def write_json(path: Path, value: Mapping[str, Any]) -> None:
    """Write whole or not at all; numbers that are not finite become null."""
    with whole_file(path) as partial:
        partial.write_text(json_text(value, indent=1) + "\n")


@dataclass(frozen=True, kw_only=True, slots=True)
class WeightsHeader:
    """What `config.json` says of the weights beside it."""

    kind: str  # of model: dit, autoencoder, motion, speech, sync
    config: Mapping[str, Any]  # the shape, from which the model is rebuilt
    gate: Mapping[str, Any] = field(default_factory=dict)  # the measures of these weights; empty: not judged
    contract: Mapping[str, Any] = field(default_factory=dict)  # of a DiT, how it is served; empty for other kinds


def save_weights(folder: Path, weights: Mapping[str, Tensor], header: WeightsHeader) -> None:
    """Write a folder that `load_weights` reads.

    An existing folder is replaced file by file, each whole: a full disk leaves the old one readable.

    Raises:
        ValueError: a tensor has values that are not finite; then nothing is written.
        OSError: the weights cannot be written, for instance because the disk is full.
    """
    check_finite(weights, source=f"weights of kind={header.kind} for {folder}")
    write_tensors(folder / "weights.safetensors", weights)
    written = {"format": FORMAT, "version": VERSION, "kind": header.kind, "config": dict(header.config)}
    for name, value in (("gate", header.gate), ("contract", header.contract)):
        if value:
            written[name] = dict(value)
    write_json(folder / "config.json", written)


def write_gate(folder: Path, gate: Mapping[str, Any]) -> None:
    """Replace the gate that stands beside weights which `save_weights` wrote."""
    path = folder / "config.json"
    write_json(path, read_json(path) | {"gate": dict(gate)})


def is_written_here(folder: Path) -> bool:
    """Whether `save_weights` wrote the folder: its `config.json` says so."""
    path = folder / "config.json"
    return path.is_file() and read_json(path).get("format") == FORMAT


def read_header(folder: Path, *, kind: str) -> WeightsHeader:
    """The checked `config.json` of a folder of weights.

    Raises:
        FileNotFoundError: there is no such folder or it has no config.
        ValueError: another format, version or kind of model.
    """
    path = folder / "config.json"
    if not path.is_file():
        raise FileNotFoundError(f"{path} does not exist: {folder} must be a folder written by a gwm stage or export.")
    header = read_json(path, remedy=AGAIN)
    expected = {"format": FORMAT, "version": VERSION, "kind": kind}
    found = {key: header.get(key) for key in expected}
    if found | {"kind": kind} == expected and found != expected:
        raise ValueError(
            f"{path} has kind={found['kind']!r}, must be {kind!r}: the folder holds another part of a model. Name the "
            f"weights folder of kind={kind}."
        )
    if found != expected:
        raise ValueError(f"{path} has {found}, must be {expected}. Export it again with this version of gwm.")
    return WeightsHeader(
        kind=kind, config=header["config"], gate=header.get("gate", {}), contract=header.get("contract", {})
    )


def load_weights(folder: Path, model: nn.Module, *, file: str = "weights.safetensors") -> None:
    """Load every tensor of the folder's file, by name and shape, in the model's own precision.

    Raises:
        FileNotFoundError: the folder has no weights.
        ValueError: the file is damaged, has values that are not finite, or a key is missing, foreign or misshaped.
    """
    if not has_values(model.parameters()):
        return
    path = folder / file
    weights = read_tensor_file(path, remedy=AGAIN)
    check_keys(weights, model.state_dict(), source=str(path))
    model.load_state_dict({k: v.to(model.state_dict()[k].dtype) for k, v in weights.items()})


def check_keys(given: Mapping[str, Tensor], expected: Mapping[str, Tensor], *, source: str) -> None:
    """Refuse tensors that are not those of a model, by name and shape.

    Raises:
        ValueError: a key is missing, foreign or misshaped; the first of each are named, the others counted.
    """
    missing = sorted(set(expected) - set(given))
    foreign = sorted(set(given) - set(expected))
    misshaped = [
        f"{k} {tuple(given[k].shape)} != {tuple(expected[k].shape)}"
        for k in sorted(set(given) & set(expected))
        if given[k].shape != expected[k].shape
    ]
    if missing or foreign or misshaped:
        raise ValueError(
            f"{source} does not fit the model: missing keys {_first(missing)}, foreign keys {_first(foreign)}, "
            f"misshaped {_first(misshaped)}."
        )


def _first(names: list[str]) -> str:
    more = len(names) - NAMES_SHOWN
    return f"{names[:NAMES_SHOWN]}" + (f" and {more} more" if more > 0 else "")


def has_values(tensors: Iterable[Tensor]) -> bool:
    """Whether there are values behind these shapes: not in a plan, whose tensors are fake."""
    return not any(isinstance(tensor, FakeTensor) for tensor in tensors)


def fingerprint(weights: Mapping[str, Tensor]) -> str:
    """Hash of names, shapes and values, where there are any: two folders with the same one hold the same model."""
    digest = hashlib.sha256()
    for name in sorted(weights):
        tensor = weights[name].detach().cpu().float().contiguous()
        digest.update(f"{name}{tuple(tensor.shape)}".encode())
        if has_values([tensor]):
            digest.update(tensor.view(-1).view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()[:16]
