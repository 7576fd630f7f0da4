"""What conversion costs: bidirectional, causal and students of few steps on the same held-out voices.

python -m evaluate.conversion runs=runs/conversion shards=shards/conversion out=evaluate/results/conversion_cpu.json

Quality and motion relative to the renders, seconds of computing for a second of film, and the wait for the first frame,
as one JSON and one picture beside it. The bidirectional model sees a whole clip at once, so its first frame comes after
the last; the others go on chunk by chunk. A second call goes on where the first stopped.
"""

import logging
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
import torch
from hydra.utils import instantiate
from jaxtyping import Float, UInt8
from matplotlib.figure import Figure
from omegaconf import DictConfig
from tqdm import tqdm

from configs.command.main import command
from data.actions import ACTION_NAMES
from evaluate.cases import Case, test_cases
from evaluate.comparison import kept, machine
from evaluate.variants import Variant, kept_folder
from gwm.autoencoders.families import load_autoencoder
from gwm.autoencoders.motion.code import MotionConfig, from_latents, physical, place
from gwm.files.outputs import check_output, whole_file
from gwm.metrics.acting import speed
from gwm.metrics.judge import Judge, means
from gwm.weights import write_json
from serve.artifact import Artifact
from serve.engine import Engine
from serve.many_steps import with_length

matplotlib.use("Agg")  # no screen
log = logging.getLogger(__name__)

BROW = "browInnerUp"
RELATIVE = ("lip_sync", "opening", "head_motion", "blinks_per_minute", "brows", "motion")  # to the renders
MOTIONS = {"head_motion": ("head", "o"), "blinks_per_minute": ("blinks", "s"), "brows": ("brows", "^")}
TICKS_S = (0.5, 1, 2, 5)
BORDERS = 4  # frames of a chunk, at whose borders flicker is looked for, of all variants alike
TIMES = ("first_frame_s", "from_sound_s", "seconds_per_second")


@dataclass(frozen=True)
class Played:
    """A clip as it was played, and when."""

    frames: UInt8[np.ndarray, "f h w 3"]
    brows: Float[np.ndarray, " f"] | None  # of the codes; None where latents are none
    times: dict[str, float]


def timed_play(artifact: Artifact, case: Case, *, seed: int) -> Played:
    """first_frame_s: from the portrait, with all of the sound there, to the first frame. from_sound_s: the same of
    somebody who is still speaking: also the sound that the first frame waits for. seconds_per_second: of computing, for
    a second of film. On a CPU they are seconds of one core, in which nobody waits for others' work."""
    engine = Engine(artifact, seed=seed, size=artifact.contract.vae.working_side)
    clock = time.perf_counter if engine.device.type == "cuda" else time.process_time
    contract, begin, latents, frames = artifact.contract, clock(), [], []
    engine.start(case.reference)
    engine.push(case.voices.agent, case.voices.user)
    engine.finish(len(case.render))
    first = 0.0
    while engine.ready:
        latents.append(engine.denoise(engine.take()))
        frames.append(engine.decode(latents[-1]))
        first = first or clock() - begin
    total, length_s = clock() - begin, len(case.render) / contract.fps
    heard_s = min(length_s, (engine.chunk_samples + engine.lookahead_samples) / contract.audio.sample_rate)
    times = {"first_frame_s": first, "from_sound_s": heard_s + first, "seconds_per_second": total / length_s}
    brows = None
    if isinstance(contract.vae, MotionConfig):
        code = physical(from_latents(torch.cat(latents, dim=1))[0].float().cpu())
        brows = code[: len(case.render), place(BROW)].numpy()
    return Played(np.concatenate(frames)[: len(case.render)], brows, times)


def judged(case: Case, judge: Judge, frames: np.ndarray, brows: np.ndarray | None) -> dict[str, float]:
    """Measures of one clip; `brows` is the mean change of the inner brows from frame to frame."""
    row, _ = judge(
        frames,
        render=case.render,
        mouth=case.mouth,
        reference=case.reference,
        chunk_frames=BORDERS,
        voices=case.voices,
        footage=case.footage,
    )
    return row if brows is None else row | {"brows": float(speed(brows[:, None]).mean())}


def measured(artifact: Artifact, case: Case, judge: Judge, *, seed: int) -> dict[str, float]:
    """Measures and times of one clip."""
    played = timed_play(artifact, case, seed=seed)
    return judged(case, judge, played.frames, played.brows) | played.times


def of_renders(case: Case, judge: Judge) -> dict[str, float]:
    """The ceiling: the same measures of the renders, and of the codes that they were drawn from."""
    brows = None if case.truth is None else case.truth.actions[:, ACTION_NAMES.index(BROW)]
    return judged(case, judge, case.render, brows)


def summed_up(rows: list[dict[str, float]], ceiling: Mapping[str, float]) -> dict[str, Any]:
    """Means of measures, medians of times, and the measures relative to the renders'."""
    found = means([{name: value for name, value in row.items() if name not in TIMES} for row in rows])
    times = {name: float(np.median([row[name] for row in rows])) for name in TIMES}
    shares = {name: found[name] / ceiling[name] for name in RELATIVE if name in found and ceiling.get(name)}
    return found | times | {"of_renders": shares}


@dataclass(frozen=True)
class Conversion:
    """What all variants are measured with."""

    runs: Path
    kept: Path
    cases: list[Case]
    judge: Judge
    seed: int
    data: str  # what the cases were drawn from

    def rows(self, variant: Variant, artifact: Artifact, bar: tqdm) -> list[dict[str, float]]:
        """Of every clip, kept ones as they are."""
        settings = {"seed": self.seed, "vae": artifact.contract.vae, "skipped": self.judge.skipped, "data": self.data}
        folder, found = kept_folder(self.kept, variant, self.runs, settings), []
        for number, case in enumerate(self.cases):
            whole = with_length(artifact, len(case.render))
            measure = partial(measured, whole, case, self.judge, seed=self.seed + number)
            found.append(kept(folder / f"{case.key}.json", measure))
            bar.update()
        return found


def name_of(variant: Variant) -> str:
    """As the figure and the table name it."""
    kind = variant.stage if variant.many_steps else "student"
    return f"{kind}, {variant.steps} step{'s' if variant.steps > 1 else ''}"


def draw(path: Path, report: Mapping[str, Any]) -> None:
    """The picture: lip-sync and motion of every variant against its wait for the first frame."""
    figure = Figure(figsize=(9.5, 3.6), layout="constrained")
    quality, motion = figure.subplots(1, 2)
    for number, (name, row) in enumerate(report["variants"].items()):
        colour, wait, shares = f"C{number}", row["from_sound_s"], row["of_renders"]
        quality.scatter([wait], [shares["lip_sync"]], color=colour, s=60, zorder=3)
        label = f"{name}: {row['seconds_per_second']:.2g} s for a second of film"
        quality.plot([], [], "o", color=colour, label=label)
        for measure, (_, marker) in MOTIONS.items():
            if measure in shares:
                motion.scatter([wait], [shares[measure]], color=colour, marker=marker, s=45, zorder=3)
    for word, marker in MOTIONS.values():
        motion.plot([], [], marker, color="#64748b", label=word)
    for axes, title in ((quality, "lip-sync, relative to the renders"), (motion, "motion, relative to the renders")):
        axes.axhline(1.0, color="#94a3b8", linewidth=0.8)
        axes.set_xscale("log")
        axes.set_xticks(TICKS_S, labels=[f"{tick:g}" for tick in TICKS_S])
        axes.minorticks_off()
        axes.set_ylim(bottom=0)
        axes.set_title(title, fontsize=10)
        axes.grid(color="#e2e8f0")
        axes.legend(frameon=False, fontsize=8, loc="lower right")
    figure.supxlabel("seconds from the first sound to the first frame", fontsize=10)
    with whole_file(path) as partial_path:
        figure.savefig(partial_path, metadata={"Date": None})


def report_of(
    variants: Sequence[Variant], found: Sequence[list[dict[str, float]]], renders: list[dict[str, float]]
) -> dict[str, Any]:
    """What the JSON says of the clips."""
    ceiling = means(renders)
    rows = {name_of(each): summed_up(rows, ceiling) for each, rows in zip(variants, found, strict=True)}
    return {"clips": len(renders), "renders": ceiling, "variants": rows}


@command("conversion", verbatim=("runs", "shards", "vae", "out"))
def main(cfg: DictConfig) -> None:
    out, runs, shards = Path(cfg.out), Path(cfg.runs), Path(cfg.shards)
    check_output(out)
    torch.set_num_threads(1)  # its seconds are those of a core
    variants: list[Variant] = instantiate(cfg.variants, _convert_="all")
    vae = load_autoencoder(Path(cfg.vae))
    artifacts = [variant.load(runs, vae) for variant in variants]
    cases = test_cases(shards, artifacts[0].contract.resolution, clips=cfg.clips, listeners=0, drawn=0)
    judge = Judge(thorough=False)
    data = (shards / "manifest.json").read_text()
    conversion = Conversion(runs, runs / "conversion", cases, judge, cfg.seed, data)
    renders = [of_renders(case, judge) for case in tqdm(cases, desc="renders", unit="clip")]
    with tqdm(total=len(variants) * len(cases), desc="conversion", unit="clip") as bar:
        found = [conversion.rows(*pair, bar) for pair in zip(variants, artifacts, strict=True)]
    report = {
        "command": " ".join(["python -m evaluate.conversion", *sys.argv[1:]]),
        "machine": machine(),
        "date": time.strftime("%Y-%m-%d"),
        "seconds": len(cases[0].render) / artifacts[0].contract.fps,
        **report_of(variants, found, renders),
    }
    write_json(out, report)
    draw(out.with_suffix(".svg"), report)
    for name, row in report["variants"].items():
        log.info("%s: %s", name, {key: round(row[key], 3) for key in TIMES} | row["of_renders"])


if __name__ == "__main__":
    main()
