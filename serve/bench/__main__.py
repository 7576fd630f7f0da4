"""Measure the speed of this machine, as JSON and tables; nothing is downloaded.

python -m serve.bench
python -m serve.bench --config-name bench_soak
python -m serve.bench --config-name bench_gpu
"""

import logging
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import torch
from omegaconf import DictConfig, OmegaConf

from configs.command.main import command
from serve.bench.case import Case
from serve.bench.compare import compare_batches, compare_blocks, compare_caches, compare_variants
from serve.bench.kernels import compare_kernels
from serve.bench.live_path import LiveCase, live_table, measure_live
from serve.bench.peers import absent
from serve.bench.report import Results, case_table, count_table, kernel_table, policy_table, ratio_table
from serve.bench.simulation import compare
from serve.bench.soak import Soak, soak
from serve.bench.speed import measure, measure_artifact
from serve.bench.timing import Stopwatch
from serve.scheduler import POLICIES

log = logging.getLogger(__name__)

SIMULATED_S = 120.0
Row = dict[str, Any]


def bench(
    *,
    name: str,
    cases: list[Case],
    variants: list[Case],
    soaks: list[Soak],
    live: list[LiveCase],
    artifact: str | None,
    sizes: list[int | None],
    stopwatch: Stopwatch,
    chunks: int,
    rounds: int,
    compile: bool,
    streams: list[int],
    out: Path,
) -> Path:
    """Measure everything in order; the file holds what is finished at any time.

    A part that this device cannot do says why in its place, and the others go on.
    """
    if min(chunks, rounds) < 1:
        raise ValueError(f"chunks={chunks} and rounds={rounds} must be at least 1: nothing else can be timed.")
    results = Results(out, name, stopwatch.device)
    log.info("%s", results.values["machine"])

    def add(part: str, label: str, run: Callable[[], Row], table: Callable[[Row], str]) -> Row:
        row = results.attempt(part, label, run)
        log.info("\n%s", table(row) if "failed" not in row else row)
        if stopwatch.device.type == "cuda":
            torch.cuda.empty_cache()
        return row

    alone = lambda row: case_table([row])  # noqa: E731
    if artifact is not None:
        for size in sizes:
            run = partial(measure_artifact, artifact, chunks=chunks, size=size)
            add("artifacts", f"{artifact} {size or ''}".strip(), run, alone)
    rows = [add("cases", case.name, partial(measure, case, stopwatch, chunks=chunks), alone) for case in cases]
    for one in live:
        add("live", one.name, partial(measure_live, one), live_table)
    done = [row for row in rows if "failed" not in row]
    for row in done[:1]:
        add("sessions", row["case"], partial(_simulated, row, streams), policy_table)
    for case in variants:
        if stopwatch.device.type == "cuda":
            add("kernels", case.name, partial(compare_kernels, case, stopwatch, rounds=rounds), kernel_table)
        comparisons = {
            "variants": partial(compare_variants, compile=compile),
            "batches": compare_batches,
            "caches": compare_caches,
            **({} if "diffusers" in absent(case) else {"blocks": compare_blocks}),
        }
        for part, comparison in comparisons.items():
            add(part, case.name, partial(comparison, case, stopwatch, rounds=rounds), ratio_table)
    for plan in soaks:
        add("soaks", plan.case.name, partial(soak, plan, stopwatch), str)
    if done:
        log.info("\n%s\n\n%s", case_table(done), count_table(done))
    log.info("%s", results.path)
    return results.path


def _simulated(row: Row, streams: list[int]) -> Row:
    """Sessions that share this machine, on a case's measured time."""
    cost_s, period_s = row["chunk_ms"]["p50"] / 1000, row["period_ms"] / 1000
    policies = compare(POLICIES, counts=streams, duration_s=SIMULATED_S, seed=0, cost_s=cost_s, period_s=period_s)
    return {
        "case": row["case"],
        "simulated_s": SIMULATED_S,
        "cost_s": cost_s,
        "period_s": period_s,
        "policies": policies,
    }


@command("bench", verbatim=("name", "artifact", "out"))
def main(cfg: DictConfig) -> None:
    values: dict[str, Any] = OmegaConf.to_container(cfg, resolve=True)  # type: ignore[assignment]
    dtype, device = values.pop("dtype"), values.pop("device") or ("cuda" if torch.cuda.is_available() else "cpu")
    stopwatch = Stopwatch(torch.device(device), values.pop("clock"))
    shapes: dict[str, list[Any]] = {
        part: [Case(**({"dtype": dtype} | case)) for case in values.pop(part)] for part in ("cases", "variants")
    }
    soaks = [
        Soak(case=Case(**({"dtype": dtype} | plan["case"])), chunks=plan["chunks"]) for plan in values.pop("soaks")
    ]
    live = [LiveCase.of(line, dtype=dtype) for line in values.pop("live")]
    with torch.no_grad():
        bench(**shapes, soaks=soaks, live=live, **(values | {"stopwatch": stopwatch, "out": Path(values["out"])}))


if __name__ == "__main__":
    main()
