"""One picture of distillations from their logs: healthy runs beside those that left their limits.

python -m evaluate.health_picture stages=[runs/pixels/dmd] [out=runs/pixels/dmd/health.svg]
"""

import logging
from collections.abc import Mapping, Sequence
from pathlib import Path

import matplotlib
import numpy as np
from jaxtyping import Float
from matplotlib.figure import Figure
from omegaconf import DictConfig

from configs.command.main import command
from evaluate.sections import HEALTH, logged
from gwm.files.outputs import whole_file
from gwm.report.line_chart import Line

matplotlib.use("Agg")  # no screen
log = logging.getLogger(__name__)

PANELS = {
    f"{HEALTH}critic_lag": "critic lag (1: no better than the teacher)",
    f"{HEALTH}dmd_norm": "norm of the DMD gradient",
    f"{HEALTH}motion_of_data": "motion, of the data's",
    f"{HEALTH}std_of_data": "deviation, of the data's",
    f"{HEALTH}saturation": "share of saturated latents",
    "train/critic_loss": "critic's loss",
}
COLOURS = ("#2563eb", "#ea580c", "#059669", "#9333ea", "#db2777", "#64748b")
SMOOTHED = 10  # share of a run, as its denominator, over which the strong line is a mean


def news(line: Line) -> Line:
    """The points at which a value changes: between two updates of the student a log repeats the last one's."""
    fresh = np.append(True, np.diff(line.y) != 0)[: len(line.y)]
    return Line(line.x[fresh], line.y[fresh])


def running_mean(values: Float[np.ndarray, " k"], width: int) -> Float[np.ndarray, " k"]:
    """Mean of the `width` values around each; at the ends of those that there are."""
    ones = np.ones(width)
    return np.convolve(values, ones, "same") / np.convolve(np.ones_like(values), ones, "same")


def draw(path: Path, stages: Mapping[str, Mapping[str, Line]]) -> None:
    """Write the picture: a panel for each measure, in it a line for each stage, faint as it was logged and smoothed."""
    figure = Figure(figsize=(11, 5.6), layout="constrained")
    panels = figure.subplots(2, len(PANELS) // 2).flatten()
    for axes, (name, title) in zip(panels, PANELS.items(), strict=True):
        for colour, (stage, curves) in zip(COLOURS, stages.items(), strict=False):
            line = news(curves[name])
            width = min(len(line.y), max(1, len(line.y) // SMOOTHED))
            axes.plot(line.x, line.y, color=colour, alpha=0.2, linewidth=0.8)
            axes.plot(line.x, running_mean(line.y, width), color=colour, label=stage)
        axes.set_title(title, fontsize=10)
    panels[0].legend(frameon=False)
    figure.supxlabel("batch", fontsize=10)
    with whole_file(path) as partial:
        figure.savefig(partial, metadata={"Date": None})


def curves_of(stages: Sequence[Path]) -> dict[str, dict[str, Line]]:
    """Logged curves by the stage's folder.

    Raises:
        ValueError: too many stages for their colours, two of one name, or one that has no health in its log.
    """
    names = [stage.name for stage in stages]
    if len(set(names)) < len(names) or len(names) > len(COLOURS):
        raise ValueError(
            f"stages={list(map(str, stages))} must be at most {len(COLOURS)}, each with a name of its own."
        )
    found = {stage.name: logged(stage) for stage in stages}
    for stage in stages:
        if missing := sorted(set(PANELS) - set(found[stage.name])):
            raise ValueError(
                f"the log of {stage} has no {missing}, must have all: draw folders of stage=dmd or stage=long, trained "
                "with logger=csv."
            )
    return found


@command("health", verbatim=("stages", "out"))
def main(cfg: DictConfig) -> None:
    stages = [Path(stage) for stage in cfg.stages]
    out = Path(cfg.out or stages[0] / "health.svg")
    draw(out, curves_of(stages))
    log.info("%s", out)


if __name__ == "__main__":
    main()
