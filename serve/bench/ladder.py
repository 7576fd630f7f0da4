"""One optimisation after the other, and other engines' caches, timed in turns on the same weights."""

from collections.abc import Mapping
from typing import Any

import torch

from kernels.dispatch import by_device, reference_only
from serve.bench.caches import POLICIES
from serve.bench.case import DTYPES, Case, random_models
from serve.bench.counters import counting
from serve.bench.peers import diffusers_runs, installed_caches
from serve.bench.subject import Options, Subject
from serve.bench.timing import Run, Stopwatch, percentiles, ratios, take_turns


def rungs(device: torch.device, *, compile: bool) -> dict[str, Options]:
    """From what other engines do to all that this one does on this device; each adds one thing."""
    made = {
        "concatenate cache": Options(cache="concatenate", kernels=reference_only),
        "roll cache": Options(cache="roll", kernels=reference_only),
        "ring": Options(kernels=reference_only),
    }
    if device.type == "cuda":
        made["ring + kernels"] = Options(kernels=by_device)
        made["ring + kernels + graph"] = Options(kernels=by_device, graph=True)
    if compile:
        made["ring + compile"] = Options(kernels=reference_only, compile=True)
    return made


def climb(case: Case, stopwatch: Stopwatch, *, rounds: int, compile: bool) -> dict[str, Any]:
    """Milliseconds of a chunk (steps and commit) on every rung, and each rung against the last engine rung."""
    options = rungs(stopwatch.device, compile=compile)
    times = _times(case, stopwatch, options, rounds=rounds, others=diffusers_runs(case, stopwatch.device))
    base = "ring + kernels + graph" if stopwatch.device.type == "cuda" else "ring"
    return {
        "case": case.name,
        "clock": stopwatch.clock,
        "rounds": rounds,
        "chunk_ms": {name: percentiles(mine) for name, mine in times.items()},
        f"times as long as {base!r}": ratios(times, base),
    }


def compare_caches(case: Case, stopwatch: Stopwatch, *, rounds: int) -> dict[str, Any]:
    """The ring against the caches of other engines, nothing else differing; and the bytes each moves for itself."""
    peers = {name: Options(cache=cache) for name, cache in installed_caches(case).items()}
    options = {name: Options(cache=name) for name in POLICIES}
    times = _times(case, stopwatch, options | peers, rounds=rounds)
    return {
        "case": case.name,
        "clock": stopwatch.clock,
        "rounds": rounds,
        "chunk_ms": {name: percentiles(mine) for name, mine in times.items()},
        "times as long as 'ring'": ratios(times, "ring"),
        "cache_bytes_per_chunk": {
            name: cache_bytes(case, stopwatch.device, option) for name, option in options.items()
        },
    }


def cache_bytes(case: Case, device: torch.device, options: Options) -> int:
    """Bytes that a steady chunk writes or copies to keep its cache."""
    models = random_models(case.contract(), device=device, dtype=DTYPES[case.dtype])
    subject = Subject(case, models, options)
    subject.fill()
    rollout, noises = subject.rollout, subject.rollout.noises()
    with counting([rollout.cache.k, rollout.cache.v]) as counts:
        rollout.generate(noises, subject.condition)
    return counts.cache_bytes


def _times(
    case: Case,
    stopwatch: Stopwatch,
    options: dict[str, Options],
    *,
    rounds: int,
    others: Mapping[str, Run] | None = None,
) -> dict[str, list[float]]:
    models = random_models(case.contract(), device=stopwatch.device, dtype=DTYPES[case.dtype])
    subjects = {name: Subject(case, models, option) for name, option in options.items()}
    for subject in subjects.values():
        subject.fill()
        subject.denoise()
    runs: dict[str, Run] = {name: subject.denoise for name, subject in subjects.items()}
    return take_turns({**(others or {}), **runs}, stopwatch, rounds=rounds)
