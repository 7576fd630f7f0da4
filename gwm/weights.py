"""Weights between stages: a folder with `weights.safetensors` and a `config.json` that rebuilds the model."""

import hashlib
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

FORMAT, VERSION = "gwm-weights", 1


def write_json(path: Path, value: Mapping[str, Any]) -> None:
    """Write whole or not at all."""
    partial = path.with_suffix(".json.partial")
    partial.write_text(json.dumps(value, indent=1) + "\n")
    os.replace(partial, path)


def save_weights(
    folder: Path, weights: Mapping[str, Tensor], *, kind: str, config: Mapping[str, Any], **facts: Any
) -> None:
    """Write a folder that `load_weights` reads; `facts` (gate, stage, contract...) are kept beside the config.

    An existing folder is replaced file by file, each whole: a full disk leaves the old one readable.

    Raises:
        OSError: the weights cannot be written, for instance because the disk is full.
    """
    folder.mkdir(parents=True, exist_ok=True)
    partial = folder / "weights.safetensors.partial"
    try:
        save_file({k: v.detach().cpu().contiguous() for k, v in weights.items()}, partial)
    except SafetensorError as error:
        raise OSError(f"{folder}: weights not written ({error}); older ones are kept. Free space, rerun.") from error
    partial.chmod(0o644)  # safetensors leaves a file that only its owner can read
    os.replace(partial, folder / "weights.safetensors")
    header = {"format": FORMAT, "version": VERSION, "kind": kind, "config": dict(config), **facts}
    write_json(folder / "config.json", header)


def update_header(folder: Path, **facts: Any) -> None:
    """Change what lies beside the weights that `save_weights` wrote."""
    path = folder / "config.json"
    write_json(path, {**json.loads(path.read_text()), **facts})


def is_written_here(folder: Path) -> bool:
    """Whether `save_weights` wrote the folder: its `config.json` says so."""
    path = folder / "config.json"
    return path.is_file() and json.loads(path.read_text()).get("format") == FORMAT


def read_header(folder: Path, *, kind: str) -> dict[str, Any]:
    """The decoded `config.json`.

    Raises:
        FileNotFoundError: there is no such folder or it has no config.
        ValueError: another format, version or kind of model.
    """
    path = folder / "config.json"
    if not path.is_file():
        raise FileNotFoundError(f"{path} does not exist: {folder} must be a folder written by a gwm stage or export.")
    header = json.loads(path.read_text())
    expected = {"format": FORMAT, "version": VERSION, "kind": kind}
    found = {key: header.get(key) for key in expected}
    if found != expected:
        raise ValueError(f"{path} has {found}, must be {expected}. Export it again with this version of gwm.")
    return header


def load_weights(folder: Path, model: nn.Module) -> None:
    """Load every tensor, by name and shape, in the model's own precision.

    Raises:
        ValueError: a key is missing, foreign or has another shape; all of them are listed.
    """
    path = folder / "weights.safetensors"
    try:
        weights = load_file(path)
    except (SafetensorError, FileNotFoundError) as error:
        raise ValueError(f"{path} cannot be read ({error}): missing or truncated. Write it again.") from error
    check_keys(weights, model.state_dict(), source=str(path))
    model.load_state_dict({k: v.to(model.state_dict()[k].dtype) for k, v in weights.items()})


def check_keys(given: Mapping[str, Tensor], expected: Mapping[str, Tensor], *, source: str) -> None:
    missing = sorted(set(expected) - set(given))
    foreign = sorted(set(given) - set(expected))
    misshaped = [
        f"{k} {tuple(given[k].shape)} != {tuple(expected[k].shape)}"
        for k in sorted(set(given) & set(expected))
        if given[k].shape != expected[k].shape
    ]
    if missing or foreign or misshaped:
        raise ValueError(
            f"{source} does not fit the model: missing keys {missing}, foreign keys {foreign}, misshaped {misshaped}."
        )


def fingerprint(weights: Mapping[str, Tensor]) -> str:
    """Hash of names, shapes and values: two folders with the same one hold the same model."""
    digest = hashlib.sha256()
    for name in sorted(weights):
        tensor = weights[name].detach().cpu().float().contiguous()
        digest.update(f"{name}{tuple(tensor.shape)}".encode())
        digest.update(tensor.view(-1).view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()[:16]
