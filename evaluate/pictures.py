"""The pictures of a character that a README shows, from results of training and evaluation.

python -m evaluate.pictures artifact=weights/character shards=shards/character [report=DIR/report.json] [runs=DIR]

talk.webp: the demo characters and a photograph say the sample's sentence, for artifacts that draw in any size.
character.jpg: people and drawn characters that no training saw, saying one sentence that none of them was heard with.
drift.svg: one stream over minutes against its first minute, from the report of suite=full.
character_training.svg: the losses of the stages.
"""

import json
import logging
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path

import matplotlib
import numpy as np
from jaxtyping import Float, UInt8
from matplotlib.figure import Figure
from omegaconf import DictConfig
from PIL import Image
from tqdm import tqdm

from configs.command.main import command
from evaluate.cases import Case, test_cases
from evaluate.endless import DRIFTING, Series, by_minute
from evaluate.sections import logged, losses
from gwm.files.outputs import whole_file
from gwm.media.video import read_audio
from gwm.report.line_chart import Line, thinned
from serve.acts import TimedNumbers
from serve.artifact import Artifact, load_artifact
from serve.engine import Engine
from serve.live.characters import read_characters
from serve.request import read_portrait
from serve.samples import sample_path
from train.gate import read_gates

log = logging.getLogger(__name__)
matplotlib.use("Agg")  # no screen

ALL = 10**6  # cases of a kind
LARGEST_PX = 1600  # side of a picture in a README
GAP_PX = 4  # between the reference image and what is made of it
LOSS_POINTS = 24  # of a mean loss: single batches differ by their noise levels far more than a stage learns
FAINT, STRONG, ALLOWED = "#94a3b8", "#2563eb", "#dcfce7"


def varied(cases: Sequence[Case], count: int) -> list[Case]:
    """The first `count`, of as many styles as there are."""
    rounds: Counter[str] = Counter()
    turns = []
    for case in cases:
        turns.append(rounds[case.style])
        rounds[case.style] += 1
    return [cases[k] for k in sorted(range(len(cases)), key=turns.__getitem__)][:count]


def row(
    artifact: Artifact, reference: UInt8[np.ndarray, "h w 3"], voice: Float[np.ndarray, " t"], *, frames: int
) -> UInt8[np.ndarray, "h w2 3"]:
    """A reference image and `frames` of its clip, equally far apart from the first to the last."""
    clip, _ = Engine(artifact, seed=0, size=artifact.contract.vae.working_side).play(
        reference, voice, np.zeros_like(voice)
    )
    shown = clip[np.linspace(0, len(clip) - 1, frames).round().astype(int)]
    gap = np.full((len(reference), GAP_PX, 3), 255, np.uint8)
    return np.concatenate([reference, gap, *shown], axis=1)


def strip(artifact: Artifact, cases: list[Case], *, people: int, drawn: int, frames: int) -> UInt8[np.ndarray, "h w 3"]:
    """A row for each of `people` and `drawn` characters, all saying what the first person that speaks was to say.

    Raises:
        ValueError: there are fewer characters than that, or nobody speaks.
    """
    persons, figures = ([case for case in cases if case.drawn is flat] for flat in (False, True))
    voices = [case.voices.agent for case in cases if case.speaks]
    if len(persons) < people or len(figures) < drawn or not voices:
        raise ValueError(
            f"the test split has {len(persons)} people, {len(figures)} drawn characters and {len(voices)} that speak, "
            f"must have people={people}, drawn={drawn} and one that speaks: make more test clips."
        )
    chosen = [*varied(persons, people), *varied(figures, drawn)]
    with tqdm(chosen, desc="character", unit="clip") as bar:
        return np.concatenate([row(artifact, case.reference, voices[0], frames=frames) for case in bar])


def moving_picture(
    artifact: Artifact, portraits: Sequence[UInt8[np.ndarray, "h w 3"]], voice: Float[np.ndarray, " t"]
) -> list[Image.Image]:
    """Every second frame of all portraits side by side, lively, in half of the size they are drawn in."""
    lively = [TimedNumbers(0.0, {"liveliness": 0.8})] if artifact.contract.controls_of("manner") else []
    clips = []
    for portrait in tqdm(portraits, desc="talk", unit="clip"):
        chunks = Engine(artifact, seed=0).stream(portrait, voice, acts=lively)
        clips.append(np.concatenate([frames for frames, _ in chunks])[::2])
    joined = [np.concatenate(row, axis=1) for row in zip(*clips, strict=True)]
    return [Image.fromarray(frame).reduce(2) for frame in joined]


def draw_drift(path: Path, series: Series, *, band: float) -> None:
    """What is measured of a stream over its mean in the first minute: every look, their means by the minute, and the
    band within which they must stay."""
    names = [name for name in DRIFTING if name in series]
    rows, minutes = (len(names) + 1) // 2, series["seconds"] / 60
    ends = [minutes[series["minute"] == minute][-1] for minute in np.unique(series["minute"])]
    figure = Figure(figsize=(10, 2.4 * rows), layout="constrained")
    charts = figure.subplots(rows, 2, sharex=True, sharey=True, squeeze=False)
    for name, axes in zip(names, charts.flat, strict=False):
        means = by_minute(series, name)
        first = np.nanmean(series[name][series["minute"] == 0])
        axes.axhspan(1 - band, 1 + band, color=ALLOWED, label=f"within {band:.0%}")
        axes.plot(minutes, series[name] / first, color=FAINT, linewidth=0.8, label="a second")
        axes.plot(ends[: len(means)], means, color=STRONG, label="a minute's mean")
        axes.set_title(name)
    charts[0, 0].legend(frameon=False, fontsize="small")
    figure.supxlabel("minutes of one stream")
    figure.supylabel("over the first minute's")
    with whole_file(path) as partial:
        figure.savefig(partial, metadata={"Date": None})


def draw_training(path: Path, curves: Mapping[str, Mapping[str, Line]]) -> None:
    """The losses of every stage, of batches and on average, side by side in the order of the chain."""
    figure = Figure(figsize=(3.2 * len(curves), 2.8), layout="constrained")
    charts = figure.subplots(1, len(curves), squeeze=False)
    for (stage, lines), axes in zip(curves.items(), charts.flat, strict=True):
        for name, line in lines.items():
            batches, mean = thinned(line), thinned(line, LOSS_POINTS)
            (strong,) = axes.plot(mean.x, mean.y, label=name.removeprefix("train/").replace("batch_loss", "loss"))
            axes.plot(batches.x, batches.y, color=strong.get_color(), alpha=0.25, linewidth=0.6)
        axes.set_yscale("log")
        axes.set_title(stage)
        axes.set_xlabel("step")
        axes.legend(frameon=False, fontsize="small")
    with whole_file(path) as partial:
        figure.savefig(partial, metadata={"Date": None})


@command("pictures", verbatim=("artifact", "shards", "report", "runs", "out"))
def main(cfg: DictConfig) -> None:
    out = Path(cfg.out)
    out.mkdir(parents=True, exist_ok=True)
    artifact = load_artifact(cfg.artifact)
    cases = test_cases(Path(cfg.shards), artifact.contract.resolution, clips=ALL, listeners=ALL, drawn=ALL)
    picture = Image.fromarray(strip(artifact, cases, people=cfg.people, drawn=cfg.drawn, frames=cfg.frames))
    picture.thumbnail((LARGEST_PX, LARGEST_PX))
    with whole_file(out / "character.jpg") as partial:
        picture.save(partial, quality=88)
    if cfg.report:
        series = json.loads(Path(cfg.report).read_text())["long_series"]
        draw_drift(out / "drift.svg", {name: np.array(values, float) for name, values in series.items()}, band=cfg.band)
    if cfg.runs:
        runs = Path(cfg.runs)
        draw_training(
            out / "character_training.svg", {stage: losses(logged(runs / stage)) for stage in read_gates(runs)}
        )
    if artifact.contract.vae.working_side is not None:
        framing = artifact.contract.framing(None)
        cast = read_characters(Path(cfg.characters), framing).values()
        portraits = [*(one.portrait for one in cast), read_portrait(sample_path("portrait"), framing, crop=True)]
        voice = read_audio(sample_path("speech"))[: round(cfg.talk_s * artifact.contract.audio.sample_rate)]
        first, *others = moving_picture(artifact, portraits, voice)
        with whole_file(out / "talk.webp") as partial:
            first.save(partial, "WEBP", save_all=True, append_images=others, duration=83, loop=0, quality=50, method=4)
    log.info("%s: %s", out, ", ".join(sorted(path.name for path in out.iterdir())))


if __name__ == "__main__":
    main()
