"""Sections of the report: tables, strips, curves and videos."""

from collections.abc import Mapping, Sequence
from dataclasses import astuple, fields
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import UInt8

from evaluate.cases import Case
from evaluate.examine import SIDES, Result
from evaluate.rules import Verdict
from evaluate.summary import Difference
from gwm.clock import FPS
from gwm.media.video import write_video
from gwm.report.line_chart import Line
from gwm.report.page import Curves, Images, Section, Table, Video, read_curves
from train.gate import OUTCOMES, read_gates

HEALTH = "health/"  # what measures of a distillation are logged under


def metrics_table(report: Mapping[str, Any]) -> Table:
    """Means with their intervals, beside the renders', which are the ceiling; below, skipped metrics, and the accuracy
    of the lip-sync network."""
    rows = []
    for name, got in report["intervals"]["model"].items():
        ceiling = report["renders"].get(name)
        rows.append([name, got["mean"], got["low"], got["high"], ceiling, got["count"]])
    floors = report["frechet_floor"]
    rows += [[name, value, None, None, floors.get(name), report["clips"]] for name, value in report["frechet"].items()]
    columns = ["metric", "model", "95 % from", "to", "renders", "clips"]
    note = "Intervals: people resampled, with all their clips. Frechet distances of renders: of two halves of them. "
    note += "".join(f"{metric} skipped: {command}. " for metric, command in report["skipped"].items())
    if report["sync_network"]:
        areas = "AUC {auc:.3f} by clips of {clips} unseen people, {auc_window:.3f} by windows of 0.2 s"
        note += (
            f"The network of sync_* distinguishes matched from shifted sound: {areas.format(**report['sync_network'])}."
        )
    return Table(title="Held-out people, characters and sentences", columns=columns, rows=rows, note=note)


def gates_table(found: Sequence[Verdict]) -> Table:
    columns = ["measure", "rule", "reached", "number", "floor", "ceiling", "share"]
    rows = [[v.measure, v.rule or "-", v.reached, v.number, v.floor, v.ceiling, v.share] for v in found]
    note = "Ceiling: the same measure on the renders. Floor: on unrelated data, such as another person's picture; 0 "
    note += "where none is named. Share: the way from floor to ceiling. A dash: not measured here, or no rule."
    return Table(title="What a character must reach", columns=columns, rows=rows, note=note)


def styles_table(results: Sequence[Result]) -> Table:
    """Closeness to the truth by style; the face mesh sees no drawn characters."""
    names = ("psnr", "ssim", "perceptual", "motion", "border_flicker")
    rows = []
    for style in sorted({result.style for result in results}):
        own = [result.rows["model"] for result in results if result.style == style]
        rows.append([style, len(own), *(_mean([row.get(name) for row in own]) for name in names)])
    return Table(title="By style", columns=["style", "clips", *names], rows=rows)


def _mean(values: Sequence[float | None]) -> float | None:
    found = [value for value in values if value is not None]
    return float(np.mean(found)) if found else None


def comparison_table(differences: Sequence[Difference], name: str) -> Table:
    note = "Interval: 95 % of the mean difference, people resampled. Undecided: chance, or too few people."
    columns = [field.name for field in fields(Difference)]
    return Table(title=f"Against {name}", columns=columns, rows=[list(astuple(row)) for row in differences], note=note)


def frechet_table(model: Mapping[str, float], baseline: Mapping[str, float]) -> Table:
    rows = [[name, value, baseline[name], value - baseline[name]] for name, value in model.items() if name in baseline]
    return Table(title="Frechet distances", columns=["distance", "model", "baseline", "difference"], rows=rows)


def speed_table(speeds: Mapping[str, Mapping[str, Any]]) -> Table:
    names = list(next(iter(speeds.values())))
    rows = [[name, *(speed[name] for speed in speeds.values())] for name in names]
    return Table(title="Speed", columns=["measure", *speeds], rows=rows)


def side_by_side(case: Case, takes: Sequence[Result]) -> UInt8[np.ndarray, "f h w 3"]:
    """The render left, then every model."""
    length = min(len(case.render), *(len(take.frames) for take in takes))
    return np.concatenate([case.render[:length], *(take.frames[:length] for take in takes)], axis=2)


def samples(cases: Sequence[Case], columns: Mapping[str, Sequence[Result]], folder: Path) -> list[Section]:
    """Strips and videos of some clips: the render, then each model by its name."""
    strips: dict[str, Any] = {}
    videos: list[Section] = []
    for number, case in enumerate(cases):
        takes = {name: results[number] for name, results in columns.items()}
        strips[f"{case.key}: render"] = case.render
        strips |= {f"{case.key}: {name}": take.frames for name, take in takes.items()}
        path = folder / f"{case.key}.mp4"
        sound = (case.voices.agent + case.voices.user).clip(-1, 1)
        write_video(path, side_by_side(case, list(takes.values())), sound, fps=FPS)
        videos.append(Video(title=f"{case.key}: render, {', '.join(takes)}", path=path))
    return [Images(title="What it looks like", strips=strips), *videos]


def lips_section(cases: Sequence[Case], results: Sequence[Result]) -> Curves:
    """The opening that was meant, and the one that is seen, scaled to its spread."""
    charts = {}
    for case, result in zip(cases, results, strict=True):
        if case.mouth is None or not case.speaks:
            continue
        opening = result.curves["model"]["opening"]
        t = np.arange(len(opening)) / FPS
        centred = (opening - np.nanmean(opening)) / (np.nanstd(opening) + 1e-9)
        shown = centred * case.mouth.std() + case.mouth.mean()
        charts[case.key] = {"meant": Line(t, case.mouth[: len(t)]), "measured (scaled)": Line(t, shown)}
    return Curves(title="Does the mouth follow the voice", charts=charts, x_label="seconds")


def time_section(results: Sequence[Result]) -> Curves:
    """Means over clips, frame by frame: model against renders."""
    charts = {}
    for name in (name for name in results[0].curves["model"] if name != "opening"):
        length = min(len(result.curves[side][name]) for result in results for side in SIDES)
        t = np.arange(length) / FPS
        charts[name] = {
            side: Line(t, np.mean([result.curves[side][name][:length] for result in results], axis=0)) for side in SIDES
        }
    return Curves(title="Over time", charts=charts, x_label="seconds")


def hold_section(series: Mapping[str, Mapping[str, np.ndarray]]) -> Curves:
    """Minutes of one stream, of each model by its name."""
    names = [name for name in next(iter(series.values())) if name not in ("seconds", "minute")]
    charts = {
        name: {who: Line(part["seconds"] / 60, part[name]) for who, part in series.items() if name in part}
        for name in names
    }
    return Curves(title="Does it hold", charts=charts, x_label="minutes")


def training_sections(runs: Path) -> list[Section]:
    """Gates, losses and, of those that watch it, health of the stages under `runs`."""
    found = read_gates(runs)
    outcomes = [
        [stage, _verdict(gate), *("; ".join(gate.get(outcome, ())) for outcome in OUTCOMES)]
        for stage, gate in found.items()
    ]
    measures = dict.fromkeys(name for gate in found.values() for name, value in gate.items() if _is_number(value))
    rows = [[name, *(gate.get(name) for gate in found.values())] for name in measures]
    curves = {stage: part for stage in found if (part := logged(runs / stage))}
    sections: list[Section] = [
        Table(title="Gates of the stages", columns=["stage", "gate", *OUTCOMES], rows=outcomes),
        Table(title="What the gates measured", columns=["measure", *found], rows=rows),
        Curves(title="Losses", charts={stage: losses(part) for stage, part in curves.items()}, x_label="step"),
    ]
    names = sorted({name for part in curves.values() for name in part if name.startswith(HEALTH)})
    health = {
        name.removeprefix(HEALTH): {s: part[name] for s, part in curves.items() if name in part} for name in names
    }
    return [*sections, Curves(title="Health", charts=health, x_label="batch", folded=True)] if health else sections


def _verdict(gate: Mapping[str, Any]) -> str | bool:
    """False: a rule was broken; True: all were kept; else the first reason why that is not known."""
    unknown = [outcome.replace("_", " ") for outcome in OUTCOMES if outcome != "failed" and gate.get(outcome)]
    return False if gate.get("failed") else unknown[0] if unknown else True


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def losses(curves: Mapping[str, Line]) -> dict[str, Line]:
    """What a stage minimised. `train/loss` is of the last pass alone where a batch needs several: the batch's replaces
    it."""
    found = {name: line for name, line in curves.items() if "loss" in name}
    if "train/batch_loss" in found:
        found.pop("train/loss", None)
    return found


def logged(stage: Path) -> dict[str, Line]:
    """The curves of a stage; nothing where it has no log. A run that was resumed has a log for each part, and what an
    earlier part did after the step from which a later one went on is left out."""
    parts = [read_curves(path) for path in sorted((stage / "logs").glob("*/metrics.csv"), key=_version)]
    joined: dict[str, Line] = {}
    for part in parts:
        for name, line in part.items():
            before = joined.get(name, line)
            kept = before.x < line.x[0]
            joined[name] = Line(*(np.concatenate([b[kept], a]) for b, a in ((before.x, line.x), (before.y, line.y))))
    return joined


def _version(path: Path) -> int:
    return int(path.parent.name.removeprefix("version_"))
