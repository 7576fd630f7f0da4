"""Tensor files of published checkpoints: one file, or shards with an index, by the rules of the hub."""

import hashlib
import json
import pickle
from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from gwm.weights import write_json

STEM = "diffusion_pytorch_model"
SAFETENSORS = ".safetensors"
PICKLES = (".pth", ".pt", ".bin")
SHARD_BYTES = 5 * 10**9
SAMPLE_BYTES = 2**16  # at the end of a file, by which it is known


def component(folder: Path, name: str) -> Path:
    """The part of a diffusers pipeline that holds `name`, or the folder itself when it is that part."""
    return folder / name if (folder / name).is_dir() else folder


def read_tensors(path: Path, *, stem: str = STEM) -> dict[str, Tensor]:
    """All tensors of a file, or of a folder with an index, with `stem`.safetensors or with one tensor file, on the CPU.

    Raises:
        FileNotFoundError: nothing of the kind is there, or a shard that the index names is missing.
        ValueError: a file is damaged, or a shard lacks a tensor that the index says it has, or the folder has several
            files and no index.
    """
    if path.is_file():
        return _read_file(path)
    index = path / f"{stem}{SAFETENSORS}.index.json"
    if index.is_file():
        return _read_shards(index)
    whole = path / f"{stem}{SAFETENSORS}"
    if whole.is_file():
        return _read_file(whole)
    files = sorted(file for file in path.glob("*") if file.suffix in (SAFETENSORS, *PICKLES))
    if not files:
        raise FileNotFoundError(
            f"{path} must be a tensor file (.safetensors, .pth) or a folder with one or with {index.name}: neither is "
            "there. Name the folder that has config.json."
        )
    if len(files) > 1:
        raise ValueError(f"{path} has {[f.name for f in files]} and no {index.name}: name the file that you mean.")
    return _read_file(files[0])


def write_tensors(folder: Path, weights: Mapping[str, Tensor], *, shard_bytes: int = SHARD_BYTES) -> None:
    """Write `diffusion_pytorch_model.safetensors`, or shards of at most `shard_bytes` and their index."""
    shards: list[dict[str, Tensor]] = [{}]
    size = 0
    for name, tensor in weights.items():
        if shards[-1] and size + tensor.nbytes > shard_bytes:
            shards.append({})
            size = 0
        shards[-1][name] = tensor.detach().cpu().contiguous()
        size += tensor.nbytes
    single = len(shards) == 1
    files = [
        f"{STEM}{SAFETENSORS}" if single else f"{STEM}-{i:05d}-of-{len(shards):05d}{SAFETENSORS}"
        for i in range(1, len(shards) + 1)
    ]
    for file, shard in zip(files, shards, strict=True):
        save_file(shard, folder / file, metadata={"format": "pt"})
        (folder / file).chmod(0o644)  # safetensors leaves a file that only its owner can read
    if not single:
        where = {name: file for file, shard in zip(files, shards, strict=True) for name in shard}
        total = sum(tensor.nbytes for tensor in weights.values())
        index = {"metadata": {"total_size": total}, "weight_map": where}
        write_json(folder / f"{STEM}{SAFETENSORS}.index.json", index)


def folder_digest(folder: Path) -> str:
    """Of names, sizes and ends of all files: reading eleven gigabytes whole would take longer than encoding a clip."""
    digest = hashlib.sha256()
    for path in sorted(folder.glob("*")):
        size = path.stat().st_size
        digest.update(f"{path.name} {size}\n".encode())
        with path.open("rb") as stream:
            stream.seek(max(0, size - SAMPLE_BYTES))
            digest.update(stream.read())
    return digest.hexdigest()[:12]


def _read_shards(index: Path) -> dict[str, Tensor]:
    where: dict[str, str] = json.loads(index.read_text())["weight_map"]
    weights: dict[str, Tensor] = {}
    for file in sorted(set(where.values())):
        if not (index.parent / file).is_file():
            raise FileNotFoundError(f"{index.parent / file} is missing, but {index.name} names it: download it again.")
        weights |= _read_file(index.parent / file)
    lost = sorted(set(where) - set(weights))
    if lost:
        raise ValueError(f"{index} names tensors that its shards do not have: {lost}. Download them again.")
    return weights


def _read_file(path: Path) -> dict[str, Tensor]:
    try:
        if path.suffix == SAFETENSORS:
            return load_file(path)
        return torch.load(path, map_location="cpu", weights_only=True)
    except (SafetensorError, RuntimeError, EOFError, pickle.UnpicklingError) as error:
        raise ValueError(f"{path} cannot be read as tensors ({error}): truncated? Download it again.") from error
