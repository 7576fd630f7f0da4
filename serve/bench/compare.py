"""Optimisations one by one, caches of other engines and blocks of other models, timed in turns."""

import dataclasses
from typing import Any

import torch

from kernels.dispatch import reference_only
from kernels.linear import onednn_computes
from serve.bench.caches import POLICIES
from serve.bench.case import DTYPES, Case, random_models
from serve.bench.counters import counting
from serve.bench.peers import absent, diffusers_runs, installed_caches
from serve.bench.timing import Run, Stopwatch, percentiles, ratios, take_turns
from serve.bench.workload import Options, Workload

BATCHES = (1, 2, 4)


def variants(device: torch.device, *, compile: bool) -> dict[str, Options]:
    """From what other engines do to all that this one does on this device; each adds one thing."""
    made = {
        "concatenate cache": Options(cache="concatenate", kernels=reference_only),
        "roll cache": Options(cache="roll", kernels=reference_only),
        "ring": Options(kernels=reference_only),
    }
    if device.type == "cpu" and onednn_computes(torch.float32):
        made["ring + oneDNN"] = Options(kernels=reference_only, onednn=True)
    if device.type == "cpu":
        made["ring + bfloat16"] = Options(kernels=reference_only, dtype=torch.bfloat16)
    if device.type == "cpu" and onednn_computes(torch.bfloat16):
        made["ring + bfloat16 + oneDNN"] = Options(kernels=reference_only, onednn=True, dtype=torch.bfloat16)
    if device.type == "cuda":
        made["ring + kernels"] = Options()
        made["ring + kernels + packed"] = Options(packed=True)
        made["ring + kernels + packed + graph"] = Options(packed=True, graph=True)
    if compile:
        made["ring + compile"] = Options(kernels=reference_only, compile=True)
    return made


def compare_variants(case: Case, stopwatch: Stopwatch, *, rounds: int, compile: bool) -> dict[str, Any]:
    """Milliseconds of a chunk (steps and commit) on every variant, and each variant against the last engine variant."""
    options = variants(stopwatch.device, compile=compile)
    times = take_turns(_runs(case, stopwatch.device, options), stopwatch, rounds=rounds)
    base = "ring + kernels + packed + graph" if stopwatch.device.type == "cuda" else "ring"
    return _report(case, stopwatch, times, base=base)


def compare_blocks(case: Case, stopwatch: Stopwatch, *, rounds: int) -> dict[str, Any]:
    """The engine against diffusers' model, which has no cache: on the window, and where both see the chunk alone."""
    engine = {"engine": Options()}
    alone = dataclasses.replace(case, window_frames=1 + case.chunk_frames)  # and the reference image
    runs = {
        "engine, whole window": _runs(case, stopwatch.device, engine)["engine"],
        "engine, chunk alone": _runs(alone, stopwatch.device, engine)["engine"],
        **diffusers_runs(case, stopwatch.device),
    }
    return _report(case, stopwatch, take_turns(runs, stopwatch, rounds=rounds), base="engine, chunk alone")


def compare_caches(case: Case, stopwatch: Stopwatch, *, rounds: int) -> dict[str, Any]:
    """The ring against the caches of other engines, nothing else differing; and the bytes each moves for itself."""
    peers = {name: Options(cache=cache) for name, cache in installed_caches(case).items()}
    options = {name: Options(cache=name) for name in POLICIES}
    times = take_turns(_runs(case, stopwatch.device, options | peers), stopwatch, rounds=rounds)
    moved = {name: cache_bytes(case, stopwatch.device, option) for name, option in options.items()}
    return {**_report(case, stopwatch, times, base="ring"), "cache_bytes_per_chunk": moved}


def compare_batches(case: Case, stopwatch: Stopwatch, *, rounds: int) -> dict[str, Any]:
    """What streams would gain if they shared passes: batches against one stream, whose chunks all come at once."""
    alone = dataclasses.replace(case, decoder=False)
    options = {f"batch of {size}": Options(batch_size=size) for size in BATCHES}
    return _report(
        case,
        stopwatch,
        take_turns(_runs(alone, stopwatch.device, options), stopwatch, rounds=rounds),
        base="batch of 1",
    )


def cache_bytes(case: Case, device: torch.device, options: Options) -> int:
    """Bytes that a steady chunk writes or copies to keep its cache."""
    models = random_models(case.contract(), device=device, dtype=DTYPES[case.dtype])
    workload = Workload(case, models, options)
    workload.fill()
    rollout, noises = workload.rollout, workload.rollout.noises()
    with counting([rollout.cache.k, rollout.cache.v]) as counts:
        rollout.generate(noises, workload.condition)
    return counts.cache_bytes


def _runs(case: Case, device: torch.device, options: dict[str, Options]) -> dict[str, Run]:
    """What makes a chunk in each way, on the same weights, once the windows are full."""
    models = random_models(case.contract(), device=device, dtype=DTYPES[case.dtype])
    workloads = {name: Workload(case, models, option) for name, option in options.items()}
    for workload in workloads.values():
        workload.fill()
        workload.denoise()
    return {name: workload.denoise for name, workload in workloads.items()}


def _report(case: Case, stopwatch: Stopwatch, times: dict[str, list[float]], *, base: str) -> dict[str, Any]:
    return {
        "case": case.name,
        "clock": stopwatch.clock,
        "rounds": len(times[base]),
        "chunk_ms": {name: percentiles(mine) for name, mine in times.items()},
        f"times as long as {base!r}": ratios(times, base),
        "not compared": absent(case),
    }
