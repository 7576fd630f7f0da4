"""How near models of motion latents come to frames that they are given, on held-out performances.

python -m evaluate.keyframes runs=runs/keyframes out=evaluate/results/keyframes_cpu.json

A clip is generated three times from the same noise and voices: with some of its true frames known, with these frames
exact, and with none known. Distances are those of codes, by how far they move a picture of 256 px; where no frame is
given, another performance of the same voice is as good as the true one, so only given frames should become near.
"""

import json
import logging
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
import torch
from jaxtyping import Bool, Float
from matplotlib.figure import Figure
from omegaconf import DictConfig
from torch import Tensor
from tqdm import tqdm

from configs.command.main import command
from data.batch import LatentBatch, latent_batch
from data.performances import Acting, Performances
from evaluate.motion_autoencoder import summary
from gwm.autoencoders.motion.code import FRAMES, SHIFTS_PX, from_latents
from gwm.clock import FPS
from gwm.condition.keyframes import with_keyframes
from gwm.contract import Contract
from gwm.dit import DiT
from gwm.report.machine import processor
from gwm.weights import write_json
from serve.many_steps import Sampling
from train.networks import load_dit
from train.played import stream

matplotlib.use("Agg")
log = logging.getLogger(__name__)

Latents = Float[Tensor, "b f 57 2 2"]


def load_stage(runs: Path, stage: str, *, steps: int) -> tuple[DiT, Contract]:
    """A model that takes keyframes, as it is sampled.

    Raises:
        FileNotFoundError: the stage has not been run.
        ValueError: its model takes no keyframes.
    """
    model, contract = load_dit(runs / stage / "weights", stage=stage)
    if contract.dit.keyframes is None:
        raise ValueError(f"runs={runs}: the model of {stage} must take keyframes. Train one: experiment=keyframes")
    if not contract.has_own_steps:
        contract = contract.replace(sigmas=Sampling(steps=steps).levels())
    return model.eval().requires_grad_(False), contract


def with_known(batch: LatentBatch, contract: Contract, frames: list[int], *, exact: bool) -> LatentBatch:
    """The clips with these latent frames known."""
    known = torch.zeros(batch.x0.shape[:2], dtype=torch.bool)
    known[:, frames] = True
    condition = with_keyframes(batch.condition, contract.dit, batch.x0, known)
    if exact:
        share = known[..., None, None, None].expand_as(batch.x0).float()
        condition = replace(condition, override={"share": share, "value": batch.x0})
    return replace(batch, conditions=condition.flat())


def distance_px(made: Latents, truth: Latents) -> Float[np.ndarray, "b f"]:
    """Root mean square over a latent frame's pixel frames of how far all numbers of a code are off, each by the shift
    of the picture that it causes."""
    off = (from_latents(made) - from_latents(truth)) * torch.tensor(list(SHIFTS_PX.values()))
    return off.square().sum(dim=-1).unflatten(1, (-1, FRAMES)).mean(dim=-1).sqrt().numpy()


def step_px(made: Latents, frames: list[int]) -> Float[np.ndarray, "b k"]:
    """How far the picture moves from the pixel frame before a given latent frame to its first one."""
    code = from_latents(made) * torch.tensor(list(SHIFTS_PX.values()))
    first = torch.tensor([FRAMES * frame for frame in frames if frame])
    return (code[:, first] - code[:, first - 1]).square().sum(dim=-1).sqrt().numpy()


def measure(
    made: dict[str, Latents], truth: Latents, frames: list[int]
) -> tuple[list[dict[str, float]], dict[str, Float[np.ndarray, " f"]]]:
    """Of each clip the mean distances at the given frames and elsewhere, and steps onto them; and curves over time."""
    given: Bool[np.ndarray, " f"] = np.isin(np.arange(truth.shape[1]), frames)
    rows: list[dict[str, float]] = [{} for _ in truth]
    curves = {}
    for name, latents in made.items():
        px = distance_px(latents, truth)
        curves[name] = px.mean(axis=0)
        for row, one, step in zip(rows, px, step_px(latents, frames), strict=True):
            row |= {f"{name}_at": float(one[given].mean()), f"{name}_elsewhere": float(one[~given].mean())}
            row[f"{name}_step"] = float(step.mean())
    for row, step in zip(rows, step_px(truth, frames), strict=True):
        row["truth_step"] = float(step.mean())
        row["share_left"] = row["known_at"] / row["free_at"]
    return rows, curves


def figure(curves: dict[str, dict[str, Any]], clips: dict[str, list[int]]) -> Figure:
    """Distance from the true performance over time: a row for each model, a column for each choice of frames."""
    made = Figure(figsize=(4 * len(clips), 2.4 * len(curves)), layout="constrained")
    axes = made.subplots(len(curves), len(clips), sharex=True, sharey="row", squeeze=False)
    for (stage, of_stage), row in zip(curves.items(), axes, strict=True):
        for (clip, lines), axis in zip(of_stage.items(), row, strict=True):
            for name, label in (("free", "no frame known"), ("known", "known frames"), ("exact", "exact")):
                axis.plot((np.arange(len(lines[name])) + 0.5) * FRAMES / FPS, lines[name], label=label)
            for frame in clips[clip]:
                axis.axvline((frame + 0.5) * FRAMES / FPS, color="0.8", zorder=0)
            axis.set(title=f"{stage}: {clip.replace('_', ' ')}", ylim=(0, None))
        row[0].set_ylabel("distance, px")
    axes[0][0].legend(fontsize="small")
    for axis in axes[-1]:
        axis.set_xlabel("s")
    return made


@command("keyframes", verbatim=("runs", "out"))
def main(cfg: DictConfig) -> None:
    start, out, report, curves = time.time(), Path(cfg.out), dict[str, Any](), dict[str, dict[str, Any]]()
    clips = {name: list(frames) for name, frames in cfg.clips.items()}
    models = {stage: load_stage(Path(cfg.runs), stage, steps=cfg.steps) for stage in cfg.models}
    _, rules = models[cfg.models[0]]
    acting = Acting(seconds=float(cfg.seconds), head_motion=1.0, manners=True, reference_spread=0.25)
    pool = Performances(acting, rules.audio, split="val", seed=cfg.seed, pool=cfg.people)
    whole = latent_batch([pool[number] | {"step": 0, "slot": 0} for number in range(cfg.people)])
    count = rules.horizon_frames
    conditions = whole.condition.frames(slice(0, count)).flat()
    batch = replace(whole, x0=whole.x0[:, :count], conditions=conditions)
    for stage, (model, contract) in tqdm(models.items(), desc="stages"):
        for name, frames in clips.items():
            wanted = {"free": ([], False), "known": (frames, False), "exact": (frames, True)}
            made = {
                kind: stream(
                    model, contract, with_known(batch, contract, known, exact=exact), num_frames=count, seed=cfg.seed
                )
                for kind, (known, exact) in wanted.items()
            }
            rows, lines = measure(made, batch.x0, frames)
            report.setdefault(stage, {})[name] = summary(rows)
            curves.setdefault(stage, {})[name] = lines
        report[stage]["steps"] = len(contract.sigmas)
    found = {
        "command": " ".join(["python -m evaluate.keyframes", *sys.argv[1:]]),
        "machine": f"{processor()}, {torch.get_num_threads()} threads",
        "date": time.strftime("%Y-%m-%d"),
        "clips": {name: [round(frame * FRAMES / FPS, 3) for frame in frames] for name, frames in clips.items()},
        "people": cfg.people,
        "models": report,
        "seconds": round(time.time() - start, 1),
    }
    out.parent.mkdir(parents=True, exist_ok=True)
    write_json(out, found)
    figure(curves, clips).savefig(out.with_suffix(".png"), dpi=100)
    for stage, of_stage in report.items():
        shares = {name: round(values["share_left"]["mean"], 3) for name, values in of_stage.items() if name in clips}
        log.info("%s: distance at given frames, of that without: %s", stage, json.dumps(shares))


if __name__ == "__main__":
    main()
