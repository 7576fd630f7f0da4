"""Sweeps: measures of each member as one table (CSV, HTML), and a picture of quality against time.

The table is written anew after every member, so that a killed sweep leaves what it has, failed members among it.
"""

import csv
import json
import logging
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from time import perf_counter
from typing import Any

import matplotlib
import numpy as np
import torch
from hydra.core.utils import JobReturn, JobStatus
from hydra.experimental.callback import Callback
from matplotlib.figure import Figure
from omegaconf import DictConfig

from gwm.condition.inputs import nothing_given
from gwm.contract import Contract
from gwm.dit import DiT
from gwm.files.outputs import whole_file
from gwm.report.page import Cell, Section, Table, write_report
from gwm.rollout import Rollout
from gwm.weights import write_json
from train.networks import load_dit

matplotlib.use("Agg")  # no screen
log = logging.getLogger(__name__)

TIMED_CHUNKS = 12
SHARED = ("stage", "+sweep", "name")  # overrides that no two members differ in


def chunk_time_ms(weights: Path) -> float:
    """Median time of one chunk of a student's stream on this machine: all steps and the commit, without decoding."""
    model, contract = load_dit(weights, stage=weights.parent.name)
    return chunk_ms(model.eval().requires_grad_(False), contract)


def chunk_ms(model: DiT, contract: Contract) -> float:
    """As `chunk_time_ms`, of a model in memory."""
    rollout = Rollout(model, contract)
    heard = nothing_given(contract.dit, contract.pattern.chunk_frames, like=model.head.weight)
    rollout.start(torch.zeros(1, 1, contract.dit.in_channels, *contract.latent_grid), heard, seed=0)
    times = []
    for _ in range(TIMED_CHUNKS):
        began = perf_counter()
        rollout.step(heard)
        times.append(1000 * (perf_counter() - began))
    return float(np.median(times[2:]))


def objectives(folder: str, *, names: list[str]) -> list[float]:
    """The named measures of a finished member, for the sweeper; all of them are kept in its measures.json.

    Raises:
        ValueError: a name is not among the measures.
    """
    gate = json.loads((Path(folder) / "gate.json").read_text())
    found = {name: value for name, value in gate.items() if isinstance(value, int | float)}
    found["ms_per_chunk"] = chunk_time_ms(Path(folder) / "weights")
    write_json(Path(folder) / "measures.json", found)
    unknown = sorted(set(names) - set(found))
    if unknown:
        raise ValueError(f"objectives {unknown} must be among {sorted(found)}: the gate's measures and ms_per_chunk.")
    return [found[name] for name in names]


@dataclass(frozen=True)
class Member:
    """One run of a sweep; without measures it has failed, and `error` says how."""

    number: int
    overrides: dict[str, str]
    measures: dict[str, float]
    error: str


def pareto(points: Sequence[tuple[float, float]]) -> list[int]:
    """Indices of the points (ms, quality) that no other beats in both, by rising time; NaN is beaten by anything."""
    order = sorted(
        (i for i, (ms, quality) in enumerate(points) if math.isfinite(ms + quality)),
        key=lambda i: (points[i][0], -points[i][1]),
    )
    front: list[int] = []
    for i in order:
        if not front or points[i][1] > points[front[-1]][1]:
            front.append(i)
    return front


def write_table(folder: Path, members: Sequence[Member], *, quality: str, sections: Sequence[Section] = ()) -> None:
    """table.csv, table.html and pareto.svg; `sections` follow the table in the HTML."""
    folder.mkdir(parents=True, exist_ok=True)
    settings = list(dict.fromkeys(name for member in members for name in member.overrides))
    measures = sorted({name for member in members for name in member.measures})
    measures.sort(key=lambda name: name not in (quality, "ms_per_chunk"))
    columns = ["member", *settings, "finished", *measures, "error"]
    rows: list[list[Cell]] = [
        [
            member.number,
            *(member.overrides.get(name, "") for name in settings),
            not member.error,
            *(member.measures.get(name) for name in measures),
            member.error,
        ]
        for member in members
    ]
    with whole_file(folder / "table.csv") as partial, partial.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(columns)
        writer.writerows([cell if measured(cell) else "" for cell in row] for row in rows)
    note = f"pareto.svg shows {quality} against ms per chunk."
    table = Table(title="members", columns=columns, rows=rows, note=note)
    write_report(folder / "table.html", folder.name, [table, *sections])
    _draw(folder / "pareto.svg", members, quality)


def measured(cell: Cell) -> bool:
    return cell is not None and not (isinstance(cell, float) and not math.isfinite(cell))


class SweepTable(Callback):
    """Hydra calls it after every member; `folder` gets the table, `quality` names the measure that matters."""

    def __init__(self, *, folder: str, quality: str) -> None:
        self.folder, self.quality = Path(folder), quality
        self.members: list[Member] = []

    def on_job_end(self, config: DictConfig, job_return: JobReturn, **kwargs: Any) -> None:
        number = len(self.members)
        given = dict(override.split("=", 1) for override in config.hydra.overrides.task)
        varied = {name.lstrip("+"): value for name, value in given.items() if name not in SHARED}
        failed = job_return.status is not JobStatus.COMPLETED
        # The public property raises what the member raised; a member's failure is a row here.
        error = f"{type(job_return._return_value).__name__}: {job_return._return_value}" if failed else ""
        path = Path(config.output) / "measures.json"
        measures = json.loads(path.read_text()) if path.is_file() and not failed else {}
        self.members.append(Member(number, varied, measures, error.splitlines()[0] if error else ""))
        write_table(self.folder, self.members, quality=self.quality)
        log.info("member %d: %s", number, error or measures)

    def on_multirun_end(self, config: DictConfig, **kwargs: Any) -> None:
        log.info("%d members: %s", len(self.members), self.folder / "table.html")


def _draw(path: Path, members: Sequence[Member], quality: str) -> None:
    shown = [member for member in members if {quality, "ms_per_chunk"} <= set(member.measures)]
    points = [(member.measures["ms_per_chunk"], member.measures[quality]) for member in shown]
    figure = Figure(figsize=(6, 4), layout="constrained")
    axes = figure.subplots()
    axes.scatter([ms for ms, _ in points], [q for _, q in points], color="#64748b")
    for member, point in zip(shown, points, strict=True):
        axes.annotate(str(member.number), point, xytext=(4, 4), textcoords="offset points")
    front = [points[i] for i in pareto(points)]
    axes.plot([ms for ms, _ in front], [q for _, q in front], color="#2563eb", drawstyle="steps-post")
    axes.set_xlabel("ms per chunk")
    axes.set_ylabel(quality)
    failed = sum(bool(member.error) for member in members)
    axes.set_title(f"{len(shown)} members, {failed} failed")
    with whole_file(path) as partial:
        figure.savefig(partial, metadata={"Date": None})
