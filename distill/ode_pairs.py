"""ODE pairs for `distill.ode`: noise and the causal teacher's trajectory from it, in shards that can be made one by
one.

Every chunk is solved behind the clean data before it, so all chunks of a clip are solved at once. Shard k is batch k of
the data and depends on (seed, k) alone: a killed run goes on with the first shard that is missing, and several machines
share the work by number.
"""

import json
import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor
from tqdm import tqdm

from data.batch import LatentBatch, LatentClips, LatentData, latent_batch
from data.steps import StepSampler
from gwm.clip import NoisedClip, teacher_forced_velocity
from gwm.condition.inputs import Conditions
from gwm.contract import Contract
from gwm.dit import DiT
from gwm.files.outputs import write_tensors
from gwm.files.tensors import read_tensor_file
from gwm.guidance import Guidance, guided_velocity
from gwm.sampler import sample
from gwm.schedule import check_sigmas, sigma_steps
from gwm.weights import fingerprint, write_json
from train.networks import load_dit
from train.noise import gaussian_like, step_generator

log = logging.getLogger(__name__)

FORMAT, VERSION = "gwm-ode-pairs", 1


def solver_sigmas(sigmas: Sequence[float], num_steps: int, *, shift: float) -> list[float]:
    """The teacher's noise levels with the student's among them, falling, and 0 at the end."""
    check_sigmas(tuple(sigmas))
    levels = sorted({*sigmas, *sigma_steps(num_steps, shift=shift)}, reverse=True)
    # A level of the teacher's own next to one of the student's would be a step of no length.
    kept = [level for level in levels if level in sigmas or min(abs(level - s) for s in sigmas) > 1e-3]
    return [*kept, 0.0]


@torch.no_grad()
def solve(
    teacher: DiT, contract: Contract, batch: LatentBatch, *, sigmas: Sequence[float], levels: Sequence[float],
    guidance: Guidance, generator: torch.Generator,
) -> dict[str, Float[Tensor, "..."]]:  # fmt: skip
    """States of the probability flow at every level of `sigmas` (b k f c h w), and where it ends (b f c h w).

    Source: Lu et al. 2026 (Causal Forcing), stage 2: the flow of the causal teacher, not of a bidirectional one, as
    only that is a function of what a causal student can see.
    """
    states, clip = [], batch.clip

    def velocity(x: Tensor, sigma: float) -> Tensor:
        if sigma in sigmas:
            states.append(x)

        def predict(condition: Conditions) -> Tensor:
            noised = NoisedClip(x, x.new_full(x.shape[:2], sigma), clip.reference, condition)
            return teacher_forced_velocity(teacher, noised, contract.pattern, history=clip.x0)

        return guided_velocity(predict, clip.condition, guidance)

    end = sample(velocity, [gaussian_like(batch.x0, generator)], sigmas=levels[:-1], solver="ode")
    return {"states": torch.stack(states, dim=1), "end": end}


def write_pairs(
    *,
    init: str,
    data: LatentData,
    sigmas: list[float],
    num_steps: int,
    shift: float,
    guidance: Guidance,
    num_shards: int,
    seed: int,
    out: str,
    part: int,
    parts: int,
    device: str,
) -> None:
    """Write the shards of this `part` that are not there yet, and the manifest once all are.

    Raises:
        ValueError: `part` is not one of `parts`, or `out` holds pairs of another teacher or with other settings.
    """
    if not 0 <= part < parts:
        raise ValueError(f"part={part} must be in [0, parts={parts}): it says which shards this process makes.")
    teacher, contract = load_dit(init, stage="causal")
    guidance.check(contract.dit)
    teacher = teacher.to(device).eval().requires_grad_(False)
    folder = Path(out)
    facts = {
        "teacher": fingerprint(teacher.state_dict()), "sigmas": sigmas, "num_steps": num_steps, "shift": shift,
        "guidance": dict(guidance.scales), "seed": seed, "num_frames": data.num_frames,
        "batch_size": data.batch_size,
        "contract": contract.to_json(),
    }  # fmt: skip
    _remember(folder, facts)
    data.prepare_data()
    data.setup("fit")
    levels = solver_sigmas(sigmas, num_steps, shift=shift)
    clips = LatentClips(data.clips, num_frames=data.num_frames, seed=data.seed, no_text=data.no_text)
    for number in tqdm(range(part, num_shards, parts), desc="ode pairs", unit="shard"):
        path = folder / shard_name(number)
        if path.is_file():
            continue
        batch = _batch(clips, data, number, device)
        generator = step_generator(seed, number, torch.device(device))
        solved = solve(teacher, contract, batch, sigmas=sigmas, levels=levels, guidance=guidance, generator=generator)
        write_tensors(path, solved | _tensors(batch))
    missing = [number for number in range(num_shards) if not (folder / shard_name(number)).is_file()]
    if missing:
        log.info("%s: %d of %d shards are still to be made by other parts", folder, len(missing), num_shards)
    else:
        write_json(folder / "manifest.json", {"format": FORMAT, "version": VERSION, "num_shards": num_shards, **facts})
        log.info("%s: %d shards of %d clips", folder, num_shards, data.batch_size)


def shard_name(number: int) -> str:
    return f"pairs-{number:06d}.safetensors"


def read_pairs_manifest(folder: Path, *, sigmas: Sequence[float]) -> dict[str, Any]:
    """The manifest of complete pairs.

    Raises:
        FileNotFoundError: there are none; the message has the command.
        ValueError: they were made for other noise levels, or by another version.
    """
    path = folder / "manifest.json"
    if not path.is_file():
        name = folder.parent.parent.name
        raise FileNotFoundError(
            f"{path} does not exist: the pairs are not complete. Make them with: python train.py stage=ode_pairs "
            f"name={name}"
        )
    manifest = json.loads(path.read_text())
    found = manifest.get("format"), manifest.get("version")
    if found != (FORMAT, VERSION):
        raise ValueError(f"{path} has (format, version)={found}, must be {(FORMAT, VERSION)}: make the pairs again.")
    if manifest["sigmas"] != list(sigmas):
        raise ValueError(
            f"sigmas={list(sigmas)} must be those of the pairs in {folder}, {manifest['sigmas']}: a student learns "
            "only the levels that were kept. Make the pairs again with stage.sigmas in another folder."
        )
    return manifest


def read_shard(path: Path) -> dict[str, Tensor]:
    """The tensors of a shard of ODE pairs.

    Raises:
        ValueError: the file is damaged or has values that are not finite.
    """
    return read_tensor_file(path, remedy="Delete it and run stage=ode_pairs again.")


def _batch(clips: LatentClips, data: LatentData, number: int, device: str) -> LatentBatch:
    sampler = StepSampler(len(data.clips), batch_size=data.batch_size, seed=data.seed, first_step=number)
    batch = latent_batch([clips[key] for key in next(iter(sampler))])
    return pairs_batch({name: tensor.to(device) for name, tensor in _tensors(batch).items()}, step=batch.step)


def _tensors(batch: LatentBatch) -> dict[str, Tensor]:
    """All tensors of a batch by name."""
    return {"x0": batch.x0, "reference": batch.reference, **batch.conditions}


def pairs_batch(tensors: dict[str, Tensor], *, step: int) -> LatentBatch:
    """The batch that is stored with its pairs."""
    conditions = {name: tensor for name, tensor in tensors.items() if "." in name}
    return LatentBatch(tensors["x0"], tensors["reference"], conditions, step=step)


def _remember(folder: Path, facts: dict[str, Any]) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    kept = folder / "settings.json"
    if kept.is_file():
        before, now = json.loads(kept.read_text()), json.loads(json.dumps(facts))
        differing = [name for name in now if before.get(name) != now[name]]
        if differing:
            raise ValueError(
                f"{folder} holds pairs made with other settings: {', '.join(differing)} must be as in {kept.name}. "
                "Choose another folder (call.out=...) or delete this one."
            )
        return
    write_json(kept, facts)
