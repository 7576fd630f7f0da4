"""Judge an artifact on people and sentences that no training saw: report.json, report.html, one line.

python evaluate.py artifact=runs/nano/artifact shards=shards/nano runs=runs/nano [suite=full] [baseline=other_artifact]
python evaluate.py artifact=runs/maze/artifact shards=shards/maze suite=world [minutes=10]
python evaluate.py artifact=runs/arm/artifact shards=shards/arm suite=robot

A second call goes on where the first was stopped: clips that were measured are kept under out/clips.
"""

import logging
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
from hydra.utils import instantiate
from omegaconf import DictConfig
from tqdm import tqdm

from configs.command.main import command
from evaluate.cases import Case, test_cases
from evaluate.comparison import measure_speed
from evaluate.endless import Series, drifts, hold
from evaluate.examine import Result, examine, load_arrays, load_result, save_arrays, work_folder
from evaluate.portraits import photographs_of, speaking_portraits
from evaluate.rules import Gate, Verdict, summary, verdicts
from evaluate.sections import (
    comparison_table,
    frechet_table,
    gates_table,
    hold_section,
    lips_section,
    metrics_table,
    samples,
    speed_table,
    styles_table,
    time_section,
    training_sections,
)
from evaluate.summary import compare, numbers
from gwm.files.outputs import check_output
from gwm.metrics.identity import stranger_similarity
from gwm.metrics.judge import Judge
from gwm.metrics.sync_net import KIND
from gwm.report.page import Section, Text, write_report
from gwm.weights import read_header, write_json
from serve.artifact import Artifact, load_artifact
from serve.engine import Engine
from serve.tuning import choose_threads

log = logging.getLogger(__name__)

Measured = tuple[dict[str, Any], list[Result], Series]


def examined(artifact: Artifact, cases: list[Case], judge: Judge, work: Path, *, seed: int, seeds: int) -> list[Result]:
    """Results of every case, kept ones as they are."""
    results = []
    with tqdm(cases, desc="evaluate", unit="clip") as bar:
        for number, case in enumerate(bar):
            path = work / f"{case.key}.npz"
            result = load_result(path)
            if result is None:
                other = other_user(cases, number)
                result = examine(artifact, case, judge, seed=seed + number, seeds=seeds, other_user=other)
                result.save(path)
            results.append(result)
            shown = result.rows["model"]
            bar.set_postfix_str(" ".join(f"{k}={shown[k]:.2f}" for k in ("lip_sync", "psnr") if k in shown))
    return results


def other_user(cases: list[Case], number: int) -> np.ndarray:
    """The user's voice of the next case that has one, or else the own one backwards."""
    for step in range(1, len(cases)):
        case = cases[(number + step) % len(cases)]
        if case.listens:
            return case.voices.user
    return cases[number].voices.user[::-1].copy()


def held(artifact: Artifact, cases: list[Case], judge: Judge, kept: Path, cfg: DictConfig) -> Series:
    """The long stream, stored like a clip; nothing where the suite has none."""
    if not cfg.long_s:
        return {}
    series = load_arrays(kept)
    if series is None:
        under_way = kept.with_name("stream.npz")
        series = hold(
            artifact, cases, judge, seed=cfg.seed, length_s=cfg.long_s, every_s=cfg.long_every_s, kept=under_way
        )
        save_arrays(kept, series)
        under_way.unlink(missing_ok=True)
    return series


def measured(folder: Path, cases: list[Case], judge: Judge, cfg: DictConfig) -> Measured:
    """Everything about one artifact: what report.json says of it, and what the pictures are made of."""
    settings: dict[str, Any] = {name: cfg[name] for name in ("seed", "seeds", "long_s", "long_every_s")}
    settings["cases"] = [case.key for case in cases]
    artifact = load_artifact(folder)
    work = work_folder(Path(cfg.out), folder, Path(cfg.shards), judge, Path(cfg.sync), settings)
    results = examined(artifact, cases, judge, work, seed=cfg.seed, seeds=cfg.seeds)
    series = held(artifact, cases, judge, work / "long.npz", cfg)
    report = {"artifact": str(folder)} | numbers(results) | {"long": drifts(series), "floor": floors(cases, judge)}
    report["long_series"] = {name: values.tolist() for name, values in series.items()}
    return report, results, series


def floors(cases: Sequence[Case], judge: Judge) -> dict[str, float]:
    """Measures on unrelated data: identity, between different people. Empty where it cannot be measured."""
    if judge.embedding is None:
        return {}
    references = {case.person: case.reference for case in cases if case.mouth is not None}
    found = stranger_similarity(references, judge.embedding)
    return {"identity": found} if np.isfinite(found) else {}


def check_speaks(artifact: Artifact, folder: Path) -> None:
    """Refuse a model that takes no sound.

    Raises:
        ValueError: it is one.
    """
    if not artifact.contract.takes_sound:
        raise ValueError(f"artifact={folder} must take sound to be judged as a character. Judge a world: suite=world.")


def summary_line(report: dict[str, Any], found: Sequence[Verdict]) -> str:
    """The first line of the log: the most important measures and the gates."""
    model = report["model"]
    shown = [f"{name}={model[name]:.3g}" for name in ("lip_sync", "false_mouth", "identity", "psnr") if name in model]
    return f"{report['artifact']}: {' '.join(shown)}; {summary(found)}"


@command("evaluate", verbatim=("artifact", "shards", "baseline", "runs", "out", "sync"))
def main(cfg: DictConfig) -> None:
    out, folder = Path(cfg.out), Path(cfg.artifact)
    if "world" in cfg:
        suite: Callable[[Path, Path, Path], None] = instantiate(cfg.world, _convert_="all")
        return suite(folder, Path(cfg.shards), out)
    check_output(out / "report.json")
    artifact = load_artifact(folder)
    check_speaks(artifact, folder)
    choose_threads(Engine(artifact, seed=cfg.seed))
    cases = test_cases(
        Path(cfg.shards), artifact.contract.resolution, clips=cfg.clips, listeners=cfg.listeners, drawn=cfg.drawn
    )
    names = {"model": folder} | ({"baseline": Path(cfg.baseline)} if cfg.baseline else {})
    speeds = {name: measure_speed(load_artifact(path), cases[0], runs=cfg.speed_runs) for name, path in names.items()}
    judge = Judge(thorough=True, sync=Path(cfg.sync))
    voices = [case.voices.agent for case in cases if case.speaks or case.footage]
    photographs = photographs_of(cfg.photographs, artifact, judge, voices)  # refused now, and not after an hour
    found = {name: measured(path, cases, judge, cfg) for name, path in names.items()}
    report, results, _ = found["model"]
    portraits = speaking_portraits(
        artifact, judge, photographs=photographs, voices=voices, drawn=cfg.drawn, seed=cfg.seed
    )
    portraits.add_to(report)
    gates: list[Gate] = instantiate(cfg.gates, _convert_="all")
    reached = verdicts(gates, report)
    report |= {"gates": [asdict(verdict) for verdict in reached], "suite": cfg.name}
    trust = read_header(Path(cfg.sync), kind=KIND).gate if judge.sync_net else {}
    report |= {"skipped": judge.skipped, "speed": speeds["model"], "sync_network": trust}
    sections: list[Section] = [gates_table(reached), metrics_table(report)]
    if cfg.baseline:
        other, others, _ = found["baseline"]
        differences = compare(results, others)
        report["baseline"] = other | {"speed": speeds["baseline"], "differences": [asdict(row) for row in differences]}
        sections += [comparison_table(differences, cfg.baseline), frechet_table(report["frechet"], other["frechet"])]
    sections += [styles_table(results), speed_table(speeds)]
    shown = {name: part[1][: cfg.shown] for name, part in found.items()}
    sections += samples(cases[: cfg.shown], shown, out / "samples")
    sections += [lips_section(cases[: cfg.shown], results[: cfg.shown]), time_section(results)]
    sections += portraits.sections()
    if cfg.long_s:
        sections.append(hold_section({name: part[2] for name, part in found.items()}))
    sections += training_sections(Path(cfg.runs)) if cfg.runs else []
    line = summary_line(report, reached)
    write_json(out / "report.json", report)
    write_report(out / "report.html", f"gwm: {folder}", [Text(title="Summary", text=line), *sections])
    log.info("%s; %s", line, out / "report.html")
    unmeasured = [verdict.measure for verdict in reached if verdict.rule and verdict.number is None]
    if unmeasured:
        log.warning("not measured, neither reached nor missed: %s", ", ".join(unmeasured))


if __name__ == "__main__":
    main()
