"""Sections of a robot's report: policies in the world and in the model, ranks, and strips of both."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from evaluate.rules import Verdict
from evaluate.worlds.hidden import Kept
from gwm.report.page import Images, Section, Table, Text

COLUMNS = 12  # pictures of a strip
EXPLAINED = (
    "Return: rewards, summed over an episode; success: the share of episodes at whose end the task is done. World: the "
    "robot's simulator, whose state the policy sees. Seen: the same, but state and reward are read from its pictures "
    "by the head that reads the model's, which is the ceiling. Deaf: the model, given rest in place of every action."
)


def report_sections(
    line: str,
    report: Mapping[str, Any],
    reached: Sequence[Verdict],
    samples: Mapping[str, Sequence[Mapping[str, Any]]],
    kept: Mapping[str, Kept],
    folder: Path,
) -> list[Section]:
    """All of them; strips are also files in `folder`."""
    rows = [[v.measure, v.rule or "-", v.reached, v.number, v.ceiling, v.floor] for v in reached]
    columns = ["measure", "rule", "reached", "model", "seen", "deaf"]
    made: list[Section] = [
        Text(title="Summary", text=line),
        Table(title="What a model of a robot must reach", columns=columns, rows=rows),
        _policies(report),
        _ranks(report),
        Table(title="Reading the world's own pictures", columns=["measure", "value"], rows=_flat(report["reader"])),
    ]
    for name, part in kept.items():
        note = "By mm: how far the thing is in the end from where it is in the world; kept: share within 30 mm."
        made.append(Table(title=f"Cases: {name}", columns=["measure", "value"], rows=_flat(part.numbers), note=note))
        made.append(_images(f"{name}: the world above the model", part.frames, folder / f"{name}.png"))
    for name, episodes in samples.items():
        strips = {f"{k + 1}: {side}": frames for k, pair in enumerate(episodes) for side, frames in pair.items()}
        made.append(_images(f"{name}, in closed loop: the world above the model", strips, folder / f"{name}.png"))
    return made


def _policies(report: Mapping[str, Any]) -> Table:
    sides = ("real", "seen", "model", "deaf")
    rows = [
        [name, *(part[side][score] for score in ("return", "success") for side in sides)]
        for name, part in report["policies"].items()
    ]
    columns = ["policy", *(f"{score}, {side}" for score in ("return", "success") for side in sides)]
    title = f"Policies, {report['starts']} starts of {report['seconds']} s each"
    return Table(title=title, columns=columns, rows=rows, note=EXPLAINED)


def _ranks(report: Mapping[str, Any]) -> Table:
    rows = [
        [f"{side}, {score}", row["spearman"], row["low"], row["high"], row["pearson"], row["mmrv"]]
        for side, part in report["ranks"].items()
        for score, row in part.items()
    ]
    columns = ["against the world", "Spearman", "from", "to", "Pearson", "MMRV"]
    note = (
        "Intervals: 95 %, starts resampled. MMRV: mean of the maximum rank violation, 0 where all policies are in "
        "order, in units of the score. Halves: half of the starts in the world against the other half."
    )
    return Table(title="Ranks of the policies", columns=columns, rows=rows, note=note)


def _flat(found: Mapping[str, Any]) -> list[list[Any]]:
    rows: list[list[Any]] = []
    for name, value in found.items():
        parts = {f"{name}, {key}": part for key, part in value.items()} if isinstance(value, Mapping) else {name: value}
        rows += [[key, part] for key, part in parts.items()]
    return rows


def _images(title: str, strips: Mapping[str, np.ndarray], path: Path) -> Images:
    if strips:
        rows = []
        for frames in strips.values():
            picked = np.linspace(0, len(frames) - 1, COLUMNS).round().astype(int)
            rows.append(np.concatenate(list(frames[picked]), axis=1))
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(np.concatenate(rows)).save(path)
    return Images(title=title, strips=strips, columns=COLUMNS)
