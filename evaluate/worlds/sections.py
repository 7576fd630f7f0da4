"""Sections of a world's report: tables, strips with the world above the model, curves and videos."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from evaluate.rules import Verdict
from evaluate.worlds.endless import STATISTICS, Series
from evaluate.worlds.episodes import NEAR, TURN, Result
from gwm.clock import FPS
from gwm.media.video import write_video
from gwm.report.line_chart import Line
from gwm.report.page import Curves, Images, Section, Table, Text, Video

COLUMNS = {"model": "model", "real": "world", "autoencoder": "autoencoder", "still": "still", "elsewhere": "elsewhere"}
STRIP_S = (2, 16)  # seconds of which strips are shown
EXPLAINED = (
    "World: the recorded environment itself under the same actions, the ceiling. Autoencoder: its pictures encoded and "
    "decoded. Still: the first picture for ever. Elsewhere: the world in another episode. Interval: 95 %, of the "
    "model's mean, episodes resampled. obeys: actions that are recognised in the answers by a network trained "
    "on the world alone; mirrored, shuffled: when it is given its actions turned around, or another episode's; "
    "control: against actions that it was not given. return: after a full turn, against the start; remembers_db: "
    "nearer by so much than half-way."
)


def report_sections(
    line: str,
    report: Mapping[str, Any],
    reached: Sequence[Verdict],
    shown: Sequence[Result],
    series: Series,
    out: Path,
) -> list[Section]:
    """All of them; videos and strips are also files under out/samples."""
    made: list[Section] = [
        Text(title="Summary", text=line),
        _gates(reached, report["obeys_above_chance"]),
        _measures(report),
        _frechets(report),
    ]
    made += [_inverse(report["inverse_dynamics"]), *_strips(shown, out / "samples"), *_videos(shown, out / "samples")]
    return [*made, *_held(report, series)] if series else made


def _gates(found: Sequence[Verdict], above: float) -> Table:
    columns = ["measure", "rule", "reached", "number", "world", "share"]
    rows = [[v.measure, v.rule or "-", v.reached, v.number, v.ceiling, v.share] for v in found]
    note = f"A dash: not measured, or no rule. Of obeys, chance taken off both sides, {above:.3f} of the world's."
    return Table(title="What a world must reach", columns=columns, rows=rows, note=note)


def _measures(report: Mapping[str, Any]) -> Table:
    sides = [side for side in COLUMNS if side in report]
    names = dict.fromkeys(name for side in sides for name in report[side])
    rows = []
    for name in names:
        interval = report["intervals"]["model"].get(name, {})
        rows.append([name, *(report[side].get(name) for side in sides), interval.get("low"), interval.get("high")])
    note = EXPLAINED + "".join(f" {name} skipped: {command}." for name, command in report["skipped"].items())
    columns = ["measure", *(COLUMNS[side] for side in sides), "model from", "to"]
    return Table(title=f"{report['episodes']} held-out episodes", columns=columns, rows=rows, note=note)


def _frechets(report: Mapping[str, Any]) -> Table:
    sides = [side for side, row in report["frechet"].items() if row]
    names = dict.fromkeys(name for side in sides for name in report["frechet"][side])
    rows = [[name, *(report["frechet"][side].get(name) for side in sides)] for name in names]
    columns = ["distance", *(COLUMNS[side] for side in sides)]
    note = "Of AlexNet's features, no FID and no FVD; 0 is equal. The world's are of two halves of its episodes."
    return Table(title="Frechet distances from the world", columns=columns, rows=rows, note=note)


def _inverse(gate: Mapping[str, Any]) -> Table:
    rows = [[name, value] for name, value in gate["by_name"].items()]
    note = f"Mean {gate['accuracy']:.3f}, chance {gate['chance']:.3f}, on {gate['clips']} recorded clips of the test "
    note += "split: the mean over a number's classes of the share that is recognised."
    return Table(title="Inverse dynamics on the world", columns=["number", "recognised"], rows=rows, note=note)


def _strips(shown: Sequence[Result], folder: Path) -> list[Section]:
    made: list[Section] = []
    for seconds in STRIP_S:
        strips = {
            f"{result.key}: {COLUMNS[who]}": result.frames[who][: seconds * FPS]
            for result in shown
            for who in ("real", "model")
        }
        made.append(Images(title=f"The world above the model, {seconds} s", strips=strips))
        for result in shown:
            pair = [result.frames[who][: seconds * FPS] for who in ("real", "model")]
            picked = np.linspace(0, len(pair[0]) - 1, 8).round().astype(int)
            rows = [np.concatenate(list(frames[picked]), axis=1) for frames in pair]
            folder.mkdir(parents=True, exist_ok=True)
            Image.fromarray(np.concatenate(rows)).save(folder / f"{result.key}-{seconds}s.png")
    turns = {
        f"{result.key}: {COLUMNS[who]}": result.frames[f"{who}/{TURN}"][:-NEAR]
        for result in shown
        for who in ("real", "model")
        if f"{who}/{TURN}" in result.frames
    }
    note = "The last picture should be the first again."
    return [*made, Images(title="A full turn", strips=turns, note=note)] if turns else made


def _videos(shown: Sequence[Result], folder: Path) -> list[Section]:
    made: list[Section] = []
    for result in shown:
        path = folder / f"{result.key}.mp4"
        write_video(path, np.concatenate([result.frames["real"], result.frames["model"]], axis=2), None, fps=FPS)
        made.append(Video(title=f"{result.key}: world, model", path=path))
    return made


def _held(report: Mapping[str, Any], series: Series) -> list[Section]:
    minutes = series["seconds"] / 60
    charts = {
        name: {side: Line(minutes, series[f"{side}/{name}"]) for side in ("model", "real")}
        for name in (*STATISTICS, "obeys")
    }
    rows = [[name, *band] for name, band in report["bands"].items()]
    fall = report["collapse"]
    said = "It does not."
    if fall is not None:
        said = f"This one does in minute {fall['minute']:.1f}, by its {fall['statistic']}."
    note = f"A stream collapses when the mean of six looks leaves the world's range, widened by half. {said}"
    return [
        Curves(title="Does it hold", charts=charts, x_label="minutes"),
        Table(title="Bands of the stream", columns=["statistic", "lowest", "highest"], rows=rows, note=note),
    ]
