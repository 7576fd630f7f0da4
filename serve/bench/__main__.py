"""How fast this machine is, as JSON and a table; nothing is downloaded.

python -m serve.bench
python -m serve.bench --config-name bench_gpu
"""

import logging
from pathlib import Path
from typing import Any

import hydra
import torch
from omegaconf import DictConfig, OmegaConf

from serve.bench.case import Case
from serve.bench.ladder import climb, compare_caches
from serve.bench.live_artifact import measure_artifact
from serve.bench.measure import measure
from serve.bench.report import Results, case_table, ratio_table
from serve.bench.simulation import compare
from serve.bench.soak import soak as run_soak
from serve.bench.timing import Stopwatch
from serve.scheduler import first_come, least_slack, round_robin

log = logging.getLogger(__name__)

POLICIES = {"least_slack": least_slack, "first_come": first_come, "round_robin": round_robin}
SIMULATED_S = 120.0


def bench(
    *,
    cases: list[Case],
    ladders: list[Case],
    artifact: str | None,
    stopwatch: Stopwatch,
    chunks: int,
    rounds: int,
    compile: bool,
    streams: list[int],
    soak: int,
    out: Path,
) -> Path:
    """Measure everything in order; the file holds what is finished at any time."""
    device = stopwatch.device
    results = Results(out, device)
    log.info("%s", results.values["machine"])
    if artifact is not None:
        results.add("artifacts", measure_artifact(artifact, chunks=chunks))
        log.info("%s", results.values["artifacts"][-1])
    for number, case in enumerate(cases):
        row = measure(case, stopwatch, chunks=chunks)
        results.add("cases", row)
        log.info("\n%s", case_table([row]))
        if number == 0:
            _simulate(results, row, streams)
        _forget(device)
    for case in ladders:
        for part, run in (("ladders", climb), ("caches", compare_caches)):
            options: dict[str, Any] = {"compile": compile} if run is climb else {}
            result = run(case, stopwatch, rounds=rounds, **options)
            results.add(part, result)
            log.info("\n%s", ratio_table(result))
            _forget(device)
    if soak:
        results.add("soaks", run_soak(stopwatch, chunks=soak))
        log.info("%s", results.values["soaks"][-1])
    log.info("\n%s\n%s", case_table(results.values.get("cases", [])), results.path)
    return results.path


def _simulate(results: Results, row: dict[str, Any], streams: list[int]) -> None:
    """Sessions that share this machine, on the first case's measured time."""
    lengths = {"cost_s": row["chunk_ms"]["p50"] / 1000, "period_s": row["period_ms"] / 1000}
    results.add("sessions", compare(POLICIES, counts=streams, duration_s=SIMULATED_S, seed=0, **lengths))


def _forget(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.empty_cache()


@hydra.main(version_base="1.3", config_path="../../configs", config_name="bench")
def main(cfg: DictConfig) -> None:
    values: dict[str, Any] = OmegaConf.to_container(cfg, resolve=True)  # type: ignore[assignment]
    dtype, device = values.pop("dtype"), values.pop("device") or ("cuda" if torch.cuda.is_available() else "cpu")
    stopwatch = Stopwatch(torch.device(device), values.pop("clock"))
    shapes = {name: [Case(**({"dtype": dtype} | case)) for case in values.pop(name)] for name in ("cases", "ladders")}
    with torch.inference_mode():
        bench(**shapes, **(values | {"stopwatch": stopwatch, "out": Path(values["out"])}))


if __name__ == "__main__":
    main()
