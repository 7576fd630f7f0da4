"""One tensor file of any origin: its tensors, or one sentence with the file, what is wrong with it and the remedy.

Every reader of weights in the project goes through `read_tensor_file` or, for files that a library reads itself,
through `check_file`. The format is recognised by the first bytes, not by the name.
"""

import json
import logging
import pickle
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file
from torch import Tensor

log = logging.getLogger(__name__)

DOWNLOAD = "Download it again."
ZIP = b"PK\x03\x04"  # with which a file of torch.save begins
PICKLES = (ZIP, b"\x80")  # or began before version 1.6
PAGE = "a web page, so the answer of a server and not the file", "Download it with a client of the hub, logged in."
# First bytes, in small letters, of what lies where a file of a model should lie; what it is, and the remedy.
NO_MODEL: dict[bytes, tuple[str, str]] = {
    b"version https://git-lfs": ("a git-LFS pointer and not the file", "Run `git lfs pull` in its folder."),
    b"<!doctype": PAGE,
    b"<html": PAGE,
    b"<?xml": PAGE,
    b"gguf": ("a GGUF file, so quantised weights, which gwm does not read", "Take the safetensors of the release."),
}
# Under which names training code keeps a model; averages before the weights of the last step.
WRAPPERS = (
    *("generator_ema", "ema", "model_ema", "ema_model", "params_ema", "shadow"),
    *("generator", "model", "state_dict", "model_state_dict", "module", "params", "weights"),
)
NOT_FINITE_SHOWN = 3


def check_file(path: Path, *, remedy: str = DOWNLOAD) -> None:
    """Refuse what cannot be a whole file, by its first bytes and by its table of contents; reads no tensor.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: it is empty, a git-LFS pointer, a web page, GGUF, or truncated.
    """
    if not path.is_file():
        raise FileNotFoundError(f"{path} does not exist. {remedy}")
    head = _head(path)
    if not head:
        raise ValueError(f"{path} is empty: 0 bytes. {remedy}")
    for start, (what, own_remedy) in NO_MODEL.items():
        if head.lstrip().lower().startswith(start):
            raise ValueError(f"{path} is {what}. {own_remedy}")
    if head.startswith(ZIP) and not zipfile.is_zipfile(path):
        raise ValueError(f"{path} has no table of contents at its end: it is truncated. {remedy}")
    if _is_safetensors(head) or (path.suffix == ".safetensors" and not head.startswith(PICKLES)):
        try:
            with safe_open(path, framework="pt"):
                pass
        except SafetensorError as error:
            raise ValueError(f"{path} is no whole safetensors file ({error}): truncated? {remedy}") from error


def read_tensor_file(path: Path, *, remedy: str = DOWNLOAD) -> dict[str, Tensor]:
    """All tensors of a safetensors file or of one that torch.save wrote, on the CPU, taken out of known wrappers.

    Raises:
        FileNotFoundError, ValueError: as `check_file`; or the file is of another format, holds Python objects besides
            tensors, or values that are not finite.
    """
    check_file(path, remedy=remedy)
    head = _head(path)
    if _is_safetensors(head):
        weights = load_file(path)
    elif head.startswith(PICKLES):
        weights = _unwrapped(read_pickle(path, remedy=remedy), source=str(path))
    else:
        raise ValueError(f"{path} must be safetensors or written by torch.save; it begins with {head[:16]!r}. {remedy}")
    check_finite(weights, source=str(path))
    return weights


def read_pickle(path: Path, *, remedy: str, trusted: bool = False, mmap: bool = False) -> Any:
    """What torch.save wrote, on the CPU; only tensors and plain containers unless `trusted`, which may run code.

    Raises:
        FileNotFoundError, ValueError: as `read_tensor_file`.
    """
    check_file(path, remedy=remedy)
    try:
        if mmap:
            return torch.load(path, map_location="cpu", weights_only=not trusted, mmap=True)
        with path.open("rb") as stream:  # of a path, torch.load would believe the name
            return torch.load(stream, map_location="cpu", weights_only=not trusted)
    except pickle.UnpicklingError as error:
        if "Weights only load failed" not in str(error):
            raise ValueError(f"{path} cannot be unpickled ({error}): truncated or damaged. {remedy}") from error
        raise ValueError(
            f"{path} holds Python objects besides tensors, which could run code when they are read. Save its tensors "
            "alone, with safetensors.torch.save_file; of a run of gwm, name the folder weights/ instead."
        ) from error
    except (RuntimeError, EOFError, ValueError) as error:
        raise ValueError(f"{path} cannot be read ({_first_line(error)}): truncated or damaged. {remedy}") from error


def read_json(path: Path, *, remedy: str = DOWNLOAD) -> dict[str, Any]:
    """A decoded JSON object.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: it is a git-LFS pointer or a web page, or no JSON object.
    """
    check_file(path, remedy=remedy)
    try:
        values = json.loads(path.read_text(encoding="utf-8-sig"))
    except ValueError as error:
        raise ValueError(f"{path} must be JSON ({error}): truncated or damaged. {remedy}") from error
    if not isinstance(values, dict):
        raise ValueError(f"{path} holds a {type(values).__name__}, must hold a JSON object. {remedy}")
    return values


def check_finite(weights: Mapping[str, Any], *, source: str) -> None:
    """Refuse weights with NaN or infinite values; entries that are no floating-point tensors pass.

    Raises:
        ValueError: some value is not finite; the message names the first tensors and counts.
    """
    bad = [name for name, tensor in weights.items() if isinstance(tensor, Tensor) and not _is_finite(tensor)]
    if not bad:
        return
    counts = [f"{name} ({_count(weights[name])} of {weights[name].numel()} values)" for name in bad[:NOT_FINITE_SHOWN]]
    more = f" and {len(bad) - NOT_FINITE_SHOWN} more" if len(bad) > NOT_FINITE_SHOWN else ""
    raise ValueError(
        f"{source}: {len(bad)} of {len(weights)} tensors have NaN or infinite values, must have none: "
        f"{', '.join(counts)}{more}. The training diverged or the file is damaged: take an earlier checkpoint, and "
        "lower the learning rate of the stage that made it."
    )


def _head(path: Path) -> bytes:
    with path.open("rb") as stream:
        return stream.read(256)


def _is_safetensors(head: bytes) -> bool:
    """Whether a file begins with a length in eight bytes, less than four gigabytes, and then with JSON."""
    return head[4:9] == bytes(4) + b"{"


def _is_finite(tensor: Tensor) -> bool:
    if not tensor.numel() or tensor.dtype not in (torch.float16, torch.bfloat16, torch.float32, torch.float64):
        return True
    low, high = torch.aminmax(tensor.detach())  # one pass without a copy; NaN wins
    return bool(low.isfinite() and high.isfinite())


def _count(tensor: Tensor) -> int:
    return int((~tensor.detach().isfinite()).sum())


def _unwrapped(found: Any, *, source: str) -> dict[str, Tensor]:
    """Tensors by name, out of the dictionaries in which training code keeps them.

    Raises:
        ValueError: what the file holds is of no known layout.
    """
    while isinstance(found, Mapping):
        inner = [name for name in WRAPPERS if isinstance(found.get(name), Mapping) and found[name]]
        if not inner:
            break
        if len(inner) > 1:
            log.warning("%s has %s: %s is read.", source, ", ".join(inner), inner[0])
        found = found[inner[0]]
    tensors = {str(k): v for k, v in found.items() if isinstance(v, Tensor)} if isinstance(found, Mapping) else {}
    if not tensors or any(isinstance(value, Mapping) for value in found.values()):
        seen = {k: type(v).__name__ for k, v in list(found.items())[:5]} if isinstance(found, Mapping) else type(found)
        raise ValueError(
            f"{source} holds {seen}, must hold tensors by name, alone or under one of {list(WRAPPERS)}. Save its "
            "tensors alone, with safetensors.torch.save_file."
        )
    return tensors


def _first_line(error: Exception) -> str:
    return str(error).partition("\n")[0]
