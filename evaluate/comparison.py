"""One table of all variants of distillation: quality on held-out people, and cost.

python -m evaluate.comparison runs=runs/pixels shards=shards/pixels [lengths_s=[10,60,600]]

A variant that nobody has trained is a row with the command that makes it. A second call goes on where the first
stopped. Variants of many steps, which would take hours of a CPU, are streamed for at most many_steps_longest_s=60 of
`lengths_s`.
"""

import json
import logging
import resource
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from hydra.utils import instantiate
from omegaconf import DictConfig
from tqdm import tqdm

from configs.command.main import command
from distill.sweep import Member, chunk_ms, write_table
from evaluate.cases import Case, test_cases
from evaluate.examine import play
from evaluate.lengths import LENGTH_COLUMNS, at_lengths, length_rows
from evaluate.variants import Variant, kept_folder
from gwm.autoencoders.protocol import Autoencoder
from gwm.metrics.judge import Judge, means
from gwm.report.machine import num_cores, processor
from gwm.report.page import Cell, Section, Table
from gwm.weights import write_json
from serve.artifact import Artifact
from train.networks import load_vae

log = logging.getLogger(__name__)

CAUSAL = "causal"  # the stage whose many steps the students are measured against
KEPT = (("lip_sync", 0.95, "minimum"), ("motion", 0.70, "minimum"), ("ms_per_chunk", 0.10, "maximum"))


def kept(path: Path, measure: Callable[[], dict[str, Any]]) -> dict[str, Any]:
    """A stored result, or that of a new measurement."""
    if not path.is_file():
        path.parent.mkdir(parents=True, exist_ok=True)
        write_json(path, measure())
    return json.loads(path.read_text())


def judged(artifact: Artifact, case: Case, judge: Judge, *, seed: int) -> dict[str, float]:
    """Measures of one clip, and the median milliseconds of its chunks with decoding, the first left out."""
    frames, times = play(artifact, case, seed=seed)
    row, _ = judge(
        frames,
        render=case.render[: len(frames)],
        mouth=case.mouth,
        reference=case.reference,
        chunk_frames=artifact.contract.chunk_pixel_frames,
        voices=case.voices,
        footage=case.footage,
    )
    return row | {"ms_per_played_chunk": float(np.median(times[1:] or times))}


@dataclass(frozen=True)
class Comparison:
    """The data and settings with which all variants are measured."""

    runs: Path
    out: Path
    vae: Autoencoder
    cases: list[Case]
    judge: Judge
    seed: int
    lengths_s: list[int]
    data: str  # what the cases were drawn from

    def __call__(self, variant: Variant, artifact: Artifact, bar: tqdm) -> dict[str, Any]:
        """Everything that is measured of one variant; `lengths` where streams are wanted."""
        settings = {"seed": self.seed, "vae": self.vae.config, "skipped": self.judge.skipped, "data": self.data}
        folder = kept_folder(self.out, variant, self.runs, settings)
        rows = []
        for number, case in enumerate(self.cases):
            measure = partial(judged, artifact, case, self.judge, seed=self.seed + number)
            rows.append(kept(folder / f"{case.key}.json", measure))
            bar.update()
        contract = artifact.contract
        time = kept(folder / "time.json", lambda: {"ms": chunk_ms(artifact.dit, contract), "machine": machine()})
        found: dict[str, Any] = means(rows) | {"ms_per_chunk": time["ms"], "chunk_frames": contract.chunk_pixel_frames}
        found["ms_per_second"] = time["ms"] * 1000 / contract.chunk_ms
        if streamed := variant.streamed(self.lengths_s):
            path = folder / f"lengths_{'_'.join(map(str, streamed))}.json"
            measure = partial(at_lengths, artifact, self.cases, self.judge, seed=self.seed, lengths_s=streamed)
            found["lengths"] = kept(path, measure)
        return found


def member(number: int, variant: Variant, found: Mapping[str, Any], error: str) -> Member:
    """The variant as a row of the table."""
    facts = {"variant": variant.run, "stage": variant.stage, "steps": str(variant.steps), "context": variant.context}
    numbers = {name: float(value) for name, value in found.items() if isinstance(value, int | float)}
    return Member(number, facts, numbers, error)


def shares(variants: Sequence[Variant], found: Sequence[Mapping[str, Any]]) -> list[list[Cell]]:
    """Shares of the causal model's measures that every student keeps, with the shares that it should keep."""
    causal = next((row for variant, row in zip(variants, found, strict=True) if variant.stage == CAUSAL and row), None)
    if causal is None:
        return []
    rows: list[list[Cell]] = []
    for variant, row in zip(variants, found, strict=True):
        if variant.sigmas is None or not row:
            continue
        cells: list[Cell] = [variant.run]
        for name, limit, side in KEPT:
            share = row[name] / max(causal[name], 1e-9) if name in row and name in causal else None
            reached = None if share is None else (share >= limit if side == "minimum" else share <= limit)
            cells += [share, reached]
        rows.append(cells)
    return rows


def sections(variants: Sequence[Variant], found: Sequence[Mapping[str, Any]], comparison: Comparison) -> list[Section]:
    """What the report shows beside the table."""
    named = [f"{name} {side} {limit:.0%}" for name, limit, side in KEPT]
    columns = ["variant", *(column for name in named for column in (name, "reached"))]
    note = f"Shares of the causal model's with many steps. Time: {machine()}. "
    note += "".join(f"{metric} skipped: {command}. " for metric, command in comparison.judge.skipped.items())
    made: list[Section] = [
        Table(title="What a student keeps", columns=columns, rows=shares(variants, found), note=note)
    ]
    lengths = {variant.run: row["lengths"] for variant, row in zip(variants, found, strict=True) if "lengths" in row}
    if lengths:
        there = [variant for variant, row in zip(variants, found, strict=True) if row]
        rows, note = (
            length_rows(lengths),
            " ".join(["10 s before each length.", *not_streamed(there, comparison.lengths_s)]),
        )
        made.append(Table(title="Along one stream", columns=LENGTH_COLUMNS, rows=rows, note=note))
    return made


def not_streamed(variants: Sequence[Variant], lengths_s: Sequence[int]) -> list[str]:
    """A sentence for every variant that is not streamed for all lengths: for which ones it is not, and why."""
    return [
        f"{variant.run} is not streamed for {', '.join(map(str, left))} s: its {variant.steps} steps are streamed for "
        f"at most {variant.longest_s} s."
        for variant in variants
        if (left := sorted(set(lengths_s) - set(variant.streamed(lengths_s))))
    ]


def compare_all(variants: Sequence[Variant], comparison: Comparison) -> None:
    """Measure all variants; table.csv, table.html, pareto.svg and comparison.json are written anew after each."""
    found: list[Mapping[str, Any]] = []
    errors: list[str] = []
    with tqdm(total=len(variants) * len(comparison.cases), desc="comparison", unit="clip") as bar:
        for variant in variants:
            bar.set_postfix_str(variant.run)
            try:
                artifact = variant.load(comparison.runs, comparison.vae)
            except (FileNotFoundError, ValueError) as error:  # a row that says so
                bar.update(len(comparison.cases))
                found.append({})
                errors.append(str(error))
            else:
                found.append(comparison(variant, artifact, bar))
                errors.append("")
            write(variants[: len(found)], found, errors, comparison)
    log.info("%d of %d variants: %s", errors.count(""), len(variants), comparison.out / "table.html")


def write(
    variants: Sequence[Variant], found: Sequence[Mapping[str, Any]], errors: Sequence[str], comparison: Comparison
) -> None:
    """Write everything that is known so far."""
    rows = list(zip(variants, found, errors, strict=True))
    members = [member(number, *row) for number, row in enumerate(rows)]
    write_table(comparison.out, members, quality="lip_sync", sections=sections(variants, found, comparison))
    named = {variant.run: {**row, "error": error} for variant, row, error in rows}
    write_json(
        comparison.out / "comparison.json", {"machine": machine(), "clips": len(comparison.cases), "variants": named}
    )


@command("comparison", verbatim=("runs", "shards", "out", "vae"))
def main(cfg: DictConfig) -> None:
    variants: list[Variant] = instantiate(cfg.variants, _convert_="all")
    runs, shards, vae = Path(cfg.runs), Path(cfg.shards), load_vae(cfg.vae)
    there = [variant for variant in variants if variant.weights(runs).is_dir()]
    if not there:
        commands = "\n".join(variant.command(runs) for variant in variants)
        raise FileNotFoundError(f"runs={runs} has no variant of the comparison. Make some with:\n{commands}")
    resolution = there[0].load(runs, vae).contract.resolution
    cases = test_cases(shards, resolution, clips=cfg.clips, listeners=0, drawn=0)
    data = (shards / "manifest.json").read_text()
    judge = Judge(thorough=True, sync=Path("weights/sync"))
    compare_all(variants, Comparison(runs, Path(cfg.out), vae, cases, judge, cfg.seed, list(cfg.lengths_s), data))


if __name__ == "__main__":
    main()


PERCENTILES = (50, 95, 99)


def machine() -> str:
    """Processor, threads, graphics card and torch, in words."""
    parts = [f"{processor()}, {num_cores() or '?'} cores"]
    parts.append(f"{torch.get_num_threads()} threads")
    if torch.cuda.is_available():
        parts.append(torch.cuda.get_device_name())
    return ", ".join([*parts, f"torch {torch.__version__}"])


def measure_speed(artifact: Artifact, case: Case, *, runs: int) -> dict[str, Any]:
    """Milliseconds per chunk over `runs` plays of a clip, after one that warms up; the first chunk, which encodes the
    portrait too, apart."""
    play(artifact, case, seed=0)
    times = [play(artifact, case, seed=run)[1] for run in range(runs)]
    later = np.concatenate([ms[1:] for ms in times])
    contract = artifact.contract
    return {
        **{f"ms_per_chunk_p{p}": float(np.percentile(later, p)) for p in PERCENTILES},
        "first_chunk_ms": float(np.median([ms[0] for ms in times])),
        "chunk_ms": contract.chunk_ms,
        "fps": 1000 * contract.chunk_pixel_frames / float(later.mean()),
        **memory(artifact),
        "machine": machine(),
    }


def memory(artifact: Artifact) -> dict[str, float]:
    """Most memory the process has held so far, in MB, and most of a graphics card's where there is one."""
    used = {"memory_mb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1000}
    device = next(artifact.dit.parameters()).device
    if device.type == "cuda":
        used["gpu_memory_mb"] = torch.cuda.max_memory_allocated(device) / 1e6
    return used
