"""Curves of a distillation: values are drawn once each, means are means, and a log without health is named."""

import csv
from pathlib import Path

import numpy as np
import pytest

from evaluate.health_picture import PANELS, curves_of, draw, news, running_mean
from gwm.report.line_chart import Line


def write_log(stage: Path, names: list[str]) -> Path:
    """Six batches of which the student learns at every third."""
    path = stage / "logs" / "version_0" / "metrics.csv"
    path.parent.mkdir(parents=True)
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, ["step", *names])
        writer.writeheader()
        for step in range(6):
            writer.writerow({"step": step} | {name: step // 3 + n for n, name in enumerate(names)})
    return stage


def test_a_repeated_value_is_one_point():
    found = news(Line(np.arange(6.0), np.array([3.0, 3.0, 3.0, 1.0, 1.0, 3.0])))
    assert (found.x.tolist(), found.y.tolist()) == ([0, 3, 5], [3, 1, 3])


def test_a_running_mean_is_of_the_values_around_each():
    assert running_mean(np.array([0.0, 3.0, 6.0, 0.0]), 3).tolist() == [1.5, 3.0, 3.0, 3.0]


def test_every_stage_is_a_line_of_every_panel(tmp_path: Path):
    stages = [write_log(tmp_path / name, list(PANELS)) for name in ("dmd", "dmd4")]
    found = curves_of(stages)
    assert found["dmd4"]["train/critic_loss"].y[0] == len(PANELS) - 1
    draw(tmp_path / "one.svg", {"dmd": found["dmd"]})
    draw(tmp_path / "two.svg", found)
    one, two = ((tmp_path / name).read_text() for name in ("one.svg", "two.svg"))
    lines = "stroke-opacity: 0.2"  # the faint ones
    assert (one.count(lines), two.count(lines)) == (len(PANELS), 2 * len(PANELS))


def test_a_log_without_health_is_an_error(tmp_path: Path):
    stage = write_log(tmp_path / "causal", ["train/loss"])
    with pytest.raises(ValueError, match=r"causal has no \['health/critic_lag'.*stage=dmd"):
        curves_of([stage])
    with pytest.raises(ValueError, match="each with a name of its own"):
        curves_of([stage, stage])
