"""The folder that a server needs and nothing else: weight files and the manifest that binds them."""

import hashlib
import json
import logging
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from gwm.autoencoders.families import build_autoencoder
from gwm.autoencoders.protocol import Autoencoder
from gwm.contract import Contract
from gwm.dit import DiT
from gwm.files.folder_kind import folder_kind
from gwm.files.tensors import read_tensor_file
from gwm.no_text import NO_TEXT_FILE, read_no_text
from gwm.rollout import Guided
from gwm.tf32 import allow_tf32
from gwm.weights import check_keys
from serve.quantise import check_recipe, quantise, unpacked

log = logging.getLogger(__name__)

FORMAT, VERSION = "gwm-artifact", 1
MANIFEST = "manifest.json"
PLACES = "places"  # folder of pictures at which visitors of a world can begin; not in the manifest
KEYS = {"format", "version", "contract", "files", "gates", "made_by"}
OPTIONAL = {"quantised"}  # recipe of `serve.quantise` for the blocks; not there: they run as they are stored
NETWORKS = ("dit", "vae")
DTYPES = ("auto", "float32", "bfloat16")
AMPERE = 8  # compute capability of the first GPUs with units for bfloat16
EXPORT_COMMAND = "python train.py stage=export name=..."


@dataclass(frozen=True)
class Artifact:
    """Models in evaluation mode, without gradient; the autoencoder may have a device of its own."""

    contract: Contract
    dit: DiT
    vae: Autoencoder
    no_text: Float[Tensor, "q t"] | None = None  # the empty prompt's tokens, of a model with a text condition
    guided: Guided | None = None  # guidance of its steps; a distilled student has none

    @property
    def num_passes(self) -> int:
        """Passes of the network for one denoising step."""
        return 1 if self.guided is None else self.guided.guidance.num_passes(self.contract.dit)


def file_name(network: str) -> str:
    return f"{network}.safetensors"


def describe(path: Path) -> dict[str, int | str]:
    """The manifest's entry for a file."""
    with path.open("rb") as stream:
        digest = hashlib.file_digest(stream, "sha256").hexdigest()
    return {"bytes": path.stat().st_size, "sha256": digest}


def chosen_dtype(wish: str, device: torch.device | str | None = None) -> torch.dtype:
    """What models compute in; auto: bfloat16 on GPUs that have units for it, else float32.

    device: None: the GPU where there is one.

    Raises:
        ValueError: `wish` is no such precision.
    """
    if wish not in DTYPES:
        raise ValueError(f"dtype={wish!r} must be one of {', '.join(DTYPES)}.")
    if wish != "auto":
        return getattr(torch, wish)
    place = torch.device(device or ("cuda" if torch.cuda.is_available() else "cpu"))
    if place.type != "cuda" or torch.cuda.get_device_capability(place)[0] < AMPERE:
        return torch.float32
    log.info("models are computed in bfloat16 on %s; dtype=float32 computes them in full precision", place)
    return torch.bfloat16


def read_manifest(folder: Path) -> dict[str, Any]:
    """The manifest, checked against the files beside it.

    Raises:
        FileNotFoundError: the folder, its manifest or one of its files is not there.
        ValueError: another format or version, a missing or foreign key, a file of another size or content.
    """
    path = folder / MANIFEST
    if not path.is_file():
        raise FileNotFoundError(
            f"artifact={folder} must be a folder that stage=export wrote, but {folder_kind(folder)}. "
            f"Make one with: {EXPORT_COMMAND}"
        )
    try:
        manifest = json.loads(path.read_text())
    except ValueError as error:
        raise ValueError(f"{path} must be JSON ({error}): it was damaged. Export it again: {EXPORT_COMMAND}") from error
    if manifest.get("format") != FORMAT:
        raise ValueError(f"artifact={folder} must be a folder that stage=export wrote, but {folder_kind(folder)}.")
    found = manifest.get("format"), manifest.get("version")
    if found != (FORMAT, VERSION):
        raise ValueError(
            f"{path} has format, version {found}, must be {(FORMAT, VERSION)}. Export it again with this version of "
            f"gwm: {EXPORT_COMMAND}"
        )
    _check_names(manifest, KEYS | OPTIONAL & set(manifest), source=str(path))
    files = {file_name(network) for network in NETWORKS}
    if any(spec["encoder"] == "text" for spec in manifest["contract"]["dit"]["conditions"]):
        files.add(NO_TEXT_FILE)
    _check_names(manifest["files"], files, source=f"files of {path}")
    for name, entry in manifest["files"].items():
        _check_file(folder / name, entry)
    return manifest


def load_artifact(
    folder: Path | str,
    *,
    device: torch.device | str | None = None,
    decode_device: torch.device | str | None = None,
    dtype: torch.dtype = torch.float32,
) -> Artifact:
    """Load an exported folder, without `device` onto the GPU when there is one.

    decode_device: of the autoencoder; None: the same.
    dtype: what the models compute in, whatever they are stored in (see `chosen_dtype`). float32 is exact: from here on
        this process uses no TF32.

    Raises:
        FileNotFoundError, ValueError: as `read_manifest`.
        ValueError: a tensor is missing, foreign or has another shape than the contract's models or values that are not
            finite, or the blocks are quantised in a way that the device cannot compute.
    """
    allow_tf32(False)
    folder = Path(folder)
    manifest = read_manifest(folder)
    contract = Contract.from_json(manifest["contract"])
    device = torch.device(device or ("cuda" if torch.cuda.is_available() else "cpu"))
    recipe: str | None = manifest["quantised"] if "quantised" in manifest else None
    if recipe is not None:
        check_recipe(recipe, device)
    dit, vae = DiT(contract.dit), build_autoencoder(contract.vae)
    for model, network in ((dit, "dit"), (vae, "vae")):
        path = folder / file_name(network)
        weights = unpacked(
            read_tensor_file(path, remedy=f"Copy the folder again, or export it again: {EXPORT_COMMAND}")
        )
        check_keys(weights, model.state_dict(), source=str(path))
        model.load_state_dict(weights)  # also widens stored bfloat16 to float32
        model.eval().requires_grad_(False)
    dit.to(device, dtype)
    vae.to(decode_device or device).compute_in(dtype)
    if recipe is not None:
        quantise(dit, recipe)
    return Artifact(contract, dit, vae, read_no_text(folder) if contract.dit.width("text") else None)


def _check_names(given: Mapping[str, Any], expected: set[str], *, source: str) -> None:
    missing, foreign = sorted(expected - set(given)), sorted(set(given) - expected)
    if missing or foreign:
        raise ValueError(
            f"{source} has missing keys {missing} and foreign keys {foreign}. Export it again: {EXPORT_COMMAND}"
        )


def _check_file(path: Path, entry: Mapping[str, Any]) -> None:
    if not path.is_file():
        raise FileNotFoundError(f"{path} is not there, but the {MANIFEST} beside it names it. Copy the whole folder.")
    size = path.stat().st_size
    if size != entry["bytes"]:
        raise ValueError(f"{path} has {size} bytes, must have {entry['bytes']}: truncated? Copy or export it again.")
    if describe(path) != entry:
        raise ValueError(
            f"{path} does not have the sha256 that the {MANIFEST} names, {entry['sha256']}: it was changed. Copy or "
            "export it again."
        )
