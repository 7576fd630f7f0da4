"""Judge an artifact on people and sentences that no training saw: report.json, report.html, one line.

python evaluate.py artifact=runs/nano/artifact shards=shards/nano runs=runs/nano
"""

import json
import logging
import platform
from pathlib import Path
from typing import Any

import hydra
import numpy as np
from omegaconf import DictConfig

from data.pixels import halved
from data.shards import Clip, decode_sample, read_samples
from gwm.line_chart import Line
from gwm.metrics.judge import Judge, means
from gwm.metrics.lip_sync import moves
from gwm.report import Curves, Images, Section, Table, Text, read_curves, write_report
from gwm.weights import write_json
from serve.artifact import Artifact, load_artifact
from serve.engine import Engine
from train.gates import read_gates

log = logging.getLogger(__name__)


def test_clips(shards: Path, resolution: int, count: int) -> list[Clip]:
    """Rendered people of the test split who speak."""
    clips = [halved(decode_sample(sample), resolution) for sample in read_samples(shards, "test")]
    return [clip for clip in clips if clip.info["style"] == "anny" and moves(clip.mouth)][:count]


def play(artifact: Artifact, clip: Clip, *, seed: int) -> tuple[np.ndarray, list[float]]:
    """The clip as the server would play it, and the milliseconds of every chunk."""
    engine = Engine(artifact, seed=seed)
    frames, times = engine.play(clip.reference, *clip.voices)
    return frames[: len(clip.frames)], times


def evaluate(artifact: Artifact, clips: list[Clip], *, seed: int) -> tuple[dict[str, Any], list[Section]]:
    """Numbers of model and renders, and the sections that show them."""
    judge = Judge(thorough=True)
    model_rows, render_rows, times, strips, charts = [], [], [], {}, {}
    for number, clip in enumerate(clips):
        frames, ms = play(artifact, clip, seed=seed + number)
        truth = {
            "render": clip.frames[: len(frames)],
            "mouth": clip.mouth[: len(frames)],
            "reference": clip.reference,
            "chunk_frames": artifact.contract.chunk_pixel_frames,
        }
        row, opening = judge(frames, **truth)
        model_rows.append(row)
        render_rows.append(judge(truth["render"], **truth)[0])
        times += ms[1:]
        log.info("clip %d of %d: lip_sync %.2f", number + 1, len(clips), row["lip_sync"])
        if number < 4:
            strips |= {f"{number}: render": clip.frames, f"{number}: model": frames}
            t = np.arange(len(frames)) / artifact.contract.fps
            scale = np.nanstd(opening) + 1e-9
            shown = (opening - np.nanmean(opening)) / scale * clip.mouth.std() + clip.mouth.mean()
            charts[f"clip {number}"] = {
                "meant": Line(t, clip.mouth[: len(t)]),
                "measured (scaled)": Line(t, shown),
            }
    speed = {f"ms_per_chunk_p{p}": float(np.percentile(times, p)) for p in (50, 95)}
    results = {
        "clips": len(clips),
        "model": means(model_rows),
        "renders": means(render_rows),
        "skipped": judge.skipped,
        "speed": {
            **speed,
            "chunk_ms": artifact.contract.chunk_ms,
            "machine": f"{platform.processor() or platform.machine()}",
        },
    }
    names = list(results["model"])
    rows = [[name, results["model"][name], results["renders"].get(name)] for name in names]
    note = "".join(f"{metric} skipped: {command}. " for metric, command in judge.skipped.items())
    sections: list[Section] = [
        Table(
            title="Held-out people and sentences",
            columns=["metric", "model", "renders (ceiling)"],
            rows=rows,
            note=note,
        ),
        Table(title="Speed", columns=["measure", "value"], rows=[[k, v] for k, v in results["speed"].items()]),
        Images(title="What it looks like", strips=strips),
        Curves(title="Does the mouth follow the voice", charts=charts, x_label="seconds"),
    ]
    return results, sections


def training_sections(runs: Path) -> list[Section]:
    """Gates and loss curves of the stages under `runs`."""
    gates = read_gates(runs)
    columns = sorted({key for gate in gates.values() for key in gate})
    rows = [[stage, *(gate.get(column, "") for column in columns)] for stage, gate in gates.items()]
    charts = {}
    for stage in gates:
        for metrics in sorted((runs / stage).glob("logs/*/metrics.csv"))[-1:]:
            charts[stage] = {name: line for name, line in read_curves(metrics).items() if "loss" in name}
    return [
        Table(title="Gates of the stages", columns=["stage", *columns], rows=rows),
        Curves(title="Losses", charts=charts, x_label="step"),
    ]


@hydra.main(version_base="1.3", config_path="configs", config_name="evaluate")
def main(cfg: DictConfig) -> None:
    out = Path(cfg.out)
    artifact = load_artifact(Path(cfg.artifact))
    clips = test_clips(Path(cfg.shards), artifact.contract.resolution, cfg.clips)
    if not clips:
        raise ValueError(f"shards={cfg.shards} has no test clip in which a rendered person speaks; make more clips.")
    results, sections = evaluate(artifact, clips, seed=cfg.seed)
    stages = training_sections(Path(cfg.runs)) if cfg.runs else []
    out.mkdir(parents=True, exist_ok=True)
    write_json(out / "report.json", results)
    summary = json.dumps({k: round(v, 3) for k, v in results["model"].items()})
    write_report(out / "report.html", f"gwm: {cfg.artifact}", [Text(title="Summary", text=summary), *sections, *stages])
    share = results["model"]["lip_sync"] / max(results["renders"]["lip_sync"], 1e-6)
    log.info("%s: lip_sync %.2f of the renders'; %s", cfg.artifact, share, out / "report.html")


if __name__ == "__main__":
    main()
