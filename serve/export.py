"""The last stage: student and autoencoder into one artifact that needs nothing else of the run.

python train.py stage=export name=pixels
"""

import copy
import dataclasses
import logging
import os
import shlex
import shutil
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, UInt8
from safetensors.torch import save_file
from torch import Tensor, nn

from gwm.autoencoders.families import load_autoencoder
from gwm.autoencoders.protocol import KIND, Autoencoder
from gwm.contract import Contract
from gwm.dit import DiT
from gwm.files.tensors import check_finite
from gwm.media.video import read_audio
from gwm.metrics.distance import psnr
from gwm.no_text import NO_TEXT_FILE, TOKENS, read_no_text
from gwm.weights import WeightsHeader, is_written_here, load_weights, read_header, write_json
from serve.artifact import FORMAT, MANIFEST, PLACES, VERSION, Artifact, describe, file_name, read_manifest
from serve.engine import Engine
from serve.quantise import packed
from serve.quantise import quantise as quantise_blocks
from serve.request import read_portrait
from serve.samples import sample_path


def worst_chunk(
    exact: Artifact,
    other: Artifact,
    portrait: UInt8[np.ndarray, "h w 3"],
    agent: Float[np.ndarray, " t"],
    user: Float[np.ndarray, " t"],
) -> dict[str, float]:
    """PSNR in dB between the chunks of two streams with the same noise and sound: of the median and the worst chunk.

    Not a mean of many clips: errors come back through the cache, and one bad chunk is seen by everybody.
    """
    frames = [Engine(artifact, seed=0).play(portrait, agent, user)[0] for artifact in (exact, other)]
    size = exact.contract.chunk_pixel_frames
    whole = len(frames[0]) // size * size
    chunks = psnr(frames[1][:whole], frames[0][:whole]).reshape(-1, size).mean(axis=1)
    return {"median_db": float(np.median(chunks)), "worst_db": float(chunks.min()), "chunks": len(chunks)}


def check_fidelity(exact: Artifact, other: Artifact, *, min_db: float, seconds: float) -> dict[str, float]:
    """`worst_chunk` of a real portrait that speaks with a real voice, over and over for `seconds`.

    Raises:
        ValueError: a chunk differs more than `min_db` allows.
    """
    speech = read_audio(sample_path("speech"))
    agent = np.resize(speech, round(seconds * exact.contract.audio.sample_rate))
    portrait = read_portrait(sample_path("portrait"), exact.contract.framing(None), crop=False)
    measured = worst_chunk(exact, other, portrait, agent, np.zeros_like(agent))
    if measured["worst_db"] < min_db:
        raise ValueError(
            f"worst_db={measured['worst_db']:.1f} must be >= min_db={min_db}: one of {measured['chunks']} chunks "
            f"differs too much, though the median has {measured['median_db']:.1f} dB. Export another recipe, or none."
        )
    return measured


log = logging.getLogger(__name__)

DTYPES: dict[str, Callable[[Mapping[str, Tensor]], dict[str, Tensor]]] = {
    "float32": lambda weights: {name: weight.float() for name, weight in weights.items()},
    "bfloat16": lambda weights: {name: weight.bfloat16() for name, weight in weights.items()},
    "int8": packed,
}


def export(
    student: str,
    vae: str,
    out: str,
    *,
    dtype: str = "float32",
    quantise: str | None = None,
    min_db: float = 30.0,
    gate_s: float = 60.0,
    text: Callable[[str], Tensor] | None = None,
    places: str | None = None,
) -> None:
    """Write the artifact of a student and the autoencoder whose latents it was trained on.

    dtype: how weights are stored. bfloat16 is half the size and changes the pixels; int8 as `serve.quantise`.
    quantise: how the blocks are computed where they are served, a recipe of `serve.quantise`.
    text: encoder of captions, for a student with a text condition whose folder lacks the empty prompt's tokens.
    places: folder of pictures (.png) at which visitors of a world can begin, which are copied into the artifact.
    min_db: what the worst chunk of a stream of `gate_s` seconds must have against the same without `quantise`.

    Raises:
        FileNotFoundError: a stage has not been run; the message has the command.
        ValueError: another autoencoder than the student's, weights that do not fit their model, no tokens of the empty
            prompt, an unknown dtype or recipe, no places, or a worse chunk than `min_db`; then nothing is written.
    """
    if dtype not in DTYPES:
        raise ValueError(f"dtype={dtype!r} must be one of {sorted(DTYPES)}.")
    if places is not None and not any(Path(places).glob("*.png")):
        raise ValueError(f"places={places} must hold at least one .png: data.worlds leaves places/ beside its shards.")
    student_header = _header(Path(student), kind="dit", stage="dmd")
    autoencoder, gate = _autoencoder(Path(vae))
    contract = Contract.from_json(student_header.contract)
    if autoencoder.config != contract.vae:
        raise ValueError(
            f"vae={vae} must be the autoencoder on whose latents {student} was trained; its shape or the statistics "
            "of its latents differ. Train the student again, or export the autoencoder of the same run."
        )
    dit = _loaded(Path(student), DiT(contract.dit))
    no_text = _no_text(Path(student), text) if contract.dit.width("text") else None
    gates = {"dit": student_header.gate, "vae": gate}
    if quantise is not None:
        exact = Artifact(contract, dit, autoencoder, no_text=no_text)
        gates["quantised"] = _quantised_gate(exact, quantise, min_db=min_db, seconds=gate_s)
    networks = {"dit": dit.state_dict(), "vae": autoencoder.state_dict()}
    stored = {name: DTYPES[dtype](weights) for name, weights in networks.items()}
    if no_text is not None:
        stored["no_text"] = {TOKENS: no_text}
    write_artifact(Path(out), stored, contract, gates=gates, quantised=quantise)
    if places is not None:
        shutil.copytree(places, Path(out) / PLACES, dirs_exist_ok=True)
    log.info("%s: %.1f MB", out, sum(file.stat().st_size for file in Path(out).glob("*.safetensors")) / 1e6)


def write_artifact(
    out: Path,
    networks: Mapping[str, Mapping[str, Tensor]],
    contract: Contract,
    *,
    gates: Mapping[str, Any],
    quantised: str | None,
) -> None:
    """Write every file beside its old version, then move all into place: a full disk leaves an old artifact whole.

    quantised: recipe by which the blocks are computed; None: as they are stored.

    Raises:
        ValueError: a tensor has values that are not finite; then nothing is written.
    """
    for name, weights in networks.items():
        check_finite(weights, source=f"{name} of {out}")
    out.mkdir(parents=True, exist_ok=True)
    partials = {file_name(name): out / f"{file_name(name)}.partial" for name in networks}
    try:
        for name, weights in networks.items():
            save_file({k: v.contiguous() for k, v in weights.items()}, partials[file_name(name)])
            partials[file_name(name)].chmod(0o644)  # safetensors leaves a file that only its owner can read
        files = {name: describe(partial) for name, partial in partials.items()}
        for name, partial in partials.items():
            os.replace(partial, out / name)
    finally:
        for partial in partials.values():
            partial.unlink(missing_ok=True)
    manifest = {
        "format": FORMAT,
        "version": VERSION,
        "files": files,
        "made_by": shlex.join(["python", *sys.argv]),
        "contract": contract.to_json(),
        "gates": gates,
    }
    write_json(out / MANIFEST, manifest if quantised is None else manifest | {"quantised": quantised})


def _header(folder: Path, *, kind: str, stage: str) -> WeightsHeader:
    try:
        return read_header(folder, kind=kind)
    except FileNotFoundError as error:
        command = f"python train.py stage={stage} name={folder.parent.parent.name}"
        raise FileNotFoundError(
            f"{folder} does not exist: export needs what stage={stage} leaves. Make it with: {command}"
        ) from error


def _autoencoder(folder: Path) -> tuple[Autoencoder, Mapping[str, Any]]:
    """With its gate, which a published one, or one that was written while its stage went on, does not have."""
    if (folder / MANIFEST).is_file():
        return load_autoencoder(folder), read_manifest(folder)["gates"]["vae"]
    if folder.exists() and not is_written_here(folder):
        return load_autoencoder(folder), {}
    header = _header(folder, kind=KIND, stage="autoencoder")
    return load_autoencoder(folder), header.gate


def _no_text(student: Path, text: Callable[[str], Tensor] | None) -> Float[Tensor, "q t"]:
    """Tokens of the empty prompt, as training read them: in half precision, like those of all captions."""
    found = read_no_text(student)
    if found is not None:
        return found
    if text is None:
        raise ValueError(
            f"{student} has no {NO_TEXT_FILE}, must have the empty prompt's tokens: a stream without a prompt is "
            "generated under them, as clips without a caption were. Train its last stage again, or name the text "
            "encoder: call.text={_target_: gwm.wan.encoders.UMT5, folder: DIR}."
        )
    return text("").half().float()


def _loaded(folder: Path, model: nn.Module) -> Any:
    """The model with the stored weights, once they have proved to fit."""
    load_weights(folder, model)
    return model.eval().requires_grad_(False)


def _quantised_gate(exact: Artifact, recipe: str, *, min_db: float, seconds: float) -> dict[str, float]:
    """What quantising costs, measured on the GPU where there is one; `exact` stays where it is and as it is."""
    device = "cuda" if torch.cuda.is_available() else "cpu"
    exact, other = (
        dataclasses.replace(exact, dit=copy.deepcopy(exact.dit).to(device), vae=copy.deepcopy(exact.vae).to(device))
        for _ in range(2)
    )
    quantise_blocks(other.dit, recipe)
    measured = check_fidelity(exact, other, min_db=min_db, seconds=seconds)
    log.info("quantised as %s: %s", recipe, measured)
    return measured
