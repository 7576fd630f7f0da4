"""The toy's results as one picture: paths, the law of single values, and the measures of every variant."""

from collections.abc import Mapping
from pathlib import Path

import matplotlib
import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from distill.student_forcing import RolloutRequest, student_rollout
from distill.toy.chain import Chain
from distill.toy.networks import ChainStudent
from gwm.condition.inputs import Conditions
from gwm.contract import Contract
from gwm.files.outputs import whole_file

matplotlib.use("Agg")  # no screen
BINS = torch.linspace(-2, 2, 61).tolist()
DATA, STUDENT = "#64748b", "#2563eb"


def draw(
    path: Path, chain: Chain, found: Mapping[str, Mapping[str, float]], student: ChainStudent, contract: Contract
) -> None:
    """Write the picture; the student generates the clips that it shows."""
    generator = torch.Generator().manual_seed(2)
    data = chain.clips(20_000, generator)
    with torch.no_grad():
        request = RolloutRequest(len(contract.sigmas) - 1, "none", generator)
        rollout = student_rollout(student, contract, request, data[:, :1], Conditions(), chain.num_frames)
    made = torch.cat([data[:, :1], rollout.x0], dim=1)
    figure = Figure(figsize=(11, 8), layout="constrained")
    grid = figure.add_gridspec(2, 6, height_ratios=(2, 3))
    top_left, top_right = figure.add_subplot(grid[0, :3]), figure.add_subplot(grid[0, 3:])
    _clips(top_left, made)
    for clips, name, colour in ((data, "data", DATA), (made, "student", STUDENT)):
        top_right.hist(clips[:, 1:].flatten(), BINS, density=True, histtype="step", color=colour, label=name)
    top_right.set_title("values of generated frames")
    top_right.legend(frameon=False)
    names = [name for name in found if name != "data"]
    paths, single, flips = (figure.add_subplot(grid[1, 2 * column : 2 * column + 2]) for column in range(3))
    _bars(paths, "total variation of paths (aim 0.06)", names, [found[n]["path_tv"] for n in names], 0.06)
    _bars(single, "total variation of values", names, [found[n]["emission_tv"] for n in names], 0.0)
    _bars(flips, f"frames that flip (data {chain.flip:g})", names, [found[n]["flips"] for n in names], chain.flip)
    for axes in (single, flips):
        axes.set_yticklabels([])  # as on the left
    with whole_file(path) as partial:
        figure.savefig(partial, metadata={"Date": None})


def _clips(axes: Axes, made: torch.Tensor) -> None:
    for clip in made[:24].flatten(1):
        axes.plot(clip, color=STUDENT, alpha=0.35, linewidth=1)
    axes.set_title("24 clips of the student; frame 0 is the reference")
    axes.set_xlabel("latent frame")


def _bars(axes: Axes, title: str, names: list[str], values: list[float], aim: float) -> None:
    axes.barh(names, values, color=STUDENT)
    axes.axvline(aim, color=DATA, linestyle="--")
    axes.invert_yaxis()
    axes.set_title(title)
