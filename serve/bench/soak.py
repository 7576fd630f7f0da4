"""A stream of days in minutes: a small model for very many chunks. Memory, time and angles must not drift."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import mpmath
import torch

from gwm.rollout import Rollout
from gwm.rope import THETA, axis_pairs, rotation
from serve.bench.case import Case
from serve.bench.speed import EARLY, LATE
from serve.bench.timing import Stopwatch, allocated, growth, percentiles, ratios, take_turns
from serve.bench.workload import Workload, make

LOOKS = 200  # at the memory, after the turns


@dataclass(frozen=True, kw_only=True)
class Soak:
    """How long which stream runs; long enough for its window to be full at `EARLY`, or it would be slower later."""

    case: Case
    chunks: int


def soak(plan: Soak, stopwatch: Stopwatch, *, rounds: int = 400) -> dict[str, Any]:
    """Run a stream to its end: milliseconds late against early, bytes of memory gained from then on, the worst angle.

    rounds: turns that the stream, once it is `LATE`, takes with a second one that is `EARLY`, so that what else the
    machine does meanwhile slows down both.
    """
    old, young = (make(plan.case, stopwatch.device) for _ in range(2))
    for workload in (old, young):
        workload.start()
    early, late = min(EARLY, plan.chunks // 4), min(LATE, plan.chunks // 2)
    _run(young, early)
    _run(old, late)
    times = take_turns({f"at {early}": young.chunk, f"at {late}": old.chunk}, stopwatch, rounds=rounds)
    every, rest = divmod(plan.chunks - late - rounds, LOOKS)
    _run(old, rest)
    sizes = []
    for _ in range(LOOKS):
        _run(old, every)
        sizes.append(allocated(stopwatch.device))
    return {
        "case": plan.case.name,
        "chunks": plan.chunks,
        "memory_slope_bytes_per_1000_chunks": growth(sizes, every=max(1, every)),
        "chunk_ms": {name: percentiles(mine) for name, mine in times.items()},
        f"times as long as 'at {early}'": ratios(times, f"at {early}"),
        "worst_angle": worst_angle(old.rollout, [EARLY, LATE, old.rollout.frame]),
        "finite": bool(torch.isfinite(old.rollout.cache.k).all()),
    }


def _run(workload: Workload, chunks: int) -> None:
    for _ in range(chunks):
        workload.chunk()


def worst_angle(rollout: Rollout, frames: Sequence[int]) -> float:
    """Largest error of a cosine or sine at these latent frames, against 50 digits."""
    head_dim = rollout.contract.dit.head_dim
    pairs, worst = axis_pairs(head_dim)[0], 0.0
    with mpmath.workdps(50):
        for frame in frames:
            positions = torch.tensor([frame], device=rollout.cache.frame.device)
            cos, sin = (turn[0, : 2 * pairs : 2].double().tolist() for turn in rotation(positions, 1, 1, head_dim))
            for j in range(pairs):
                angle = frame * mpmath.mpf(THETA) ** (-mpmath.mpf(j) / pairs)
                errors = abs(mpmath.cos(angle) - cos[j]), abs(mpmath.sin(angle) - sin[j])
                worst = max(worst, *map(float, errors))
    return worst
