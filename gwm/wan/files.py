"""Files of published checkpoints, by the rules of the hub: what of a folder is read, and how one is written."""

import hashlib
import logging
import re
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import NamedTuple

from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor

from gwm.files.tensors import DOWNLOAD, check_file, check_finite, read_json, read_tensor_file
from gwm.wan.state_dict import check_full_model, plain_names
from gwm.weights import write_json

log = logging.getLogger(__name__)

STEM = "diffusion_pytorch_model"
SAFETENSORS = ".safetensors"
FORMATS = ("safetensors", "pth", "pt", "bin", "ckpt", "gguf")  # the earlier is preferred; the last is refused by name
VARIANTS = ("", "fp32", "bf16", "fp16")  # likewise: the release without a name first, then the most precise
SHARD_BYTES = 5 * 10**9
SAMPLE_BYTES = 2**16  # at the end of a file, by which it is known
# diffusion_pytorch_model.safetensors.index.fp16.json as diffusers writes it, ...safetensors.fp16.index.json before 0.22
INDEX = re.compile(rf"(?P<stem>.+)\.(?P<format>{'|'.join(FORMATS)})(\.(?P<old>\w+))?\.index(\.(?P<variant>\w+))?\.json")
WHOLE = re.compile(rf"(?P<stem>.+?)(\.(?P<variant>\w+))?\.(?P<format>{'|'.join(FORMATS)})")
SHARD = re.compile(r"-\d{5}-of-\d{5}")
# Wan 2.2 A14B has two transformers, by noise level; the first is for the higher ones.
EXPERTS = (("transformer", "transformer_2"), ("high_noise_model", "low_noise_model"))


class Checkpoint(NamedTuple):
    """One file with all tensors, or the index of several."""

    path: Path
    stem: str
    variant: str
    format: str

    @property
    def rank(self) -> tuple[int, int, str]:
        known = VARIANTS.index(self.variant) if self.variant in VARIANTS else len(VARIANTS)
        return known, FORMATS.index(self.format), self.path.name


def component(folder: Path, name: str) -> Path:
    """The part of a diffusers pipeline that holds `name`, or the folder itself when it is that part."""
    return folder / name if (folder / name).is_dir() else folder


def transformer_part(folder: Path) -> Path:
    """The transformer's part of a pipeline, or the folder itself when it is that part.

    Raises:
        ValueError: the folder has two experts, so one must be named.
    """
    for high, low in EXPERTS:
        if (folder / high).is_dir() and (folder / low).is_dir():
            raise ValueError(
                f"{folder} has two transformers, so it is Wan 2.2 A14B: {high}/ is for noise levels above its boundary "
                f"(0.9 in I2V, 0.875 in T2V) and {low}/ for those below. Name one, and the folder for the rest: "
                f"init={folder / high} base={folder}, or init={folder / low} base={folder}."
            )
    return component(folder, "transformer")


def chosen_checkpoint(path: Path) -> Path:
    """The tensor file or index that `path` names, or that is preferred in the folder `path`.

    Preferred are: diffusion_pytorch_model before other names; no variant, then fp32, bf16, fp16, then others by name;
    safetensors before .pth, .pt and .bin.

    Raises:
        FileNotFoundError: there is none.
        ValueError: the folder has several files under other names, or shards without their index.
    """
    if path.is_file():
        return path
    names = sorted(file.name for file in path.iterdir()) if path.is_dir() else []
    found = [checkpoint for name in names if (checkpoint := _checkpoint(path / name)) is not None]
    standard = sorted((c for c in found if c.stem == STEM), key=lambda c: c.rank)
    if standard:
        others = [c.path.name for c in standard[1:] if c.variant != standard[0].variant]
        if others:
            log.warning("%s is read; %s has also %s: name the file to read another.", standard[0].path, path, others)
        return standard[0].path
    indices = [c for c in found if c.path.suffix == ".json"]
    if len(indices or found) == 1:
        return (indices or found)[0].path
    shards = [name for name in names if SHARD.search(name)]
    if found:
        raise ValueError(f"{path} has {[c.path.name for c in found]}: name the file that you mean.")
    if shards:
        raise ValueError(
            f"{path} has shards such as {shards[0]} and no index.json, which says what is where. Download it too."
        )
    raise FileNotFoundError(
        f"{path} must be a tensor file (.safetensors, .pth, .pt, .bin) or a folder with {STEM}{SAFETENSORS} or its "
        f"index.json: none is there. {missing_hint(path)}"
    )


def missing_hint(path: Path) -> str:
    """What to do where `path` has no weights; a path of two parts that is not there may be a name of the hub."""
    if path.exists():
        return "Name the folder that has config.json."
    if len(path.parts) == 2:
        return f"If {path} is a name on the hub, download it first: hf download {path} --local-dir {path.name}"
    return "Nothing is there: check the path."


def tensor_names(path: Path) -> Collection[str]:
    """Names in a checkpoint, without reading its tensors where the format allows it.

    Raises:
        FileNotFoundError, ValueError: as `read_tensors`.
    """
    chosen = chosen_checkpoint(path)
    if chosen.suffix == ".json":
        return _weight_map(chosen).keys()
    check_file(chosen)
    if chosen.suffix != SAFETENSORS:
        return read_tensor_file(chosen).keys()
    with safe_open(chosen, framework="pt") as file:
        return file.keys()


def read_tensors(path: Path) -> dict[str, Tensor]:
    """All tensors of a full model in `path` (see `chosen_checkpoint`), on the CPU, by their plain names.

    Raises:
        FileNotFoundError: nothing of the kind is there, or a shard that the index names is missing.
        ValueError: a file is damaged, is a LoRA, quantised, or has values that are not finite; or a shard lacks a
            tensor that the index says it has.
    """
    chosen = chosen_checkpoint(path)
    weights = _read_shards(chosen) if chosen.suffix == ".json" else read_tensor_file(chosen)
    check_full_model(weights, source=str(chosen))
    return plain_names(weights, source=str(chosen))


def write_tensors(folder: Path, weights: Mapping[str, Tensor], *, shard_bytes: int = SHARD_BYTES) -> None:
    """Write `diffusion_pytorch_model.safetensors`, or shards of at most `shard_bytes` and their index.

    Raises:
        ValueError: a tensor has values that are not finite; then nothing is written.
    """
    check_finite(weights, source=f"weights for {folder}")
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


def _checkpoint(path: Path) -> Checkpoint | None:
    """What a file is by its name; None: neither an index nor a file of a whole model."""
    match = INDEX.fullmatch(path.name) or WHOLE.fullmatch(path.name)
    if match is None or SHARD.search(path.name):
        return None
    parts = match.groupdict()
    return Checkpoint(path, parts["stem"], parts["variant"] or parts.get("old") or "", parts["format"])


def _weight_map(index: Path) -> dict[str, str]:
    values = read_json(index)
    if not isinstance(values.get("weight_map"), dict):
        raise ValueError(f"{index} must have a weight_map, as an index of shards has: {sorted(values)[:5]} are there.")
    return values["weight_map"]


def _read_shards(index: Path) -> dict[str, Tensor]:
    where = _weight_map(index)
    weights: dict[str, Tensor] = {}
    for file in sorted(set(where.values())):
        if not (index.parent / file).is_file():
            raise FileNotFoundError(f"{index.parent / file} is missing, but {index.name} names it. {DOWNLOAD}")
        weights |= read_tensor_file(index.parent / file)
    lost = sorted(set(where) - set(weights))
    if lost:
        raise ValueError(
            f"{index} names {len(lost)} tensors that its shards do not have, such as {lost[0]}: they are of another "
            f"version. {DOWNLOAD}"
        )
    return weights
