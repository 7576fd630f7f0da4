"""A stream of days in minutes: one small layer for very many chunks. Memory, time and angles must not drift."""

import statistics
from collections.abc import Sequence
from typing import Any

import mpmath
import torch

from gwm.rollout import Rollout
from gwm.rope import THETA, axis_pairs, rotation
from serve.bench.case import Case
from serve.bench.measure import allocated
from serve.bench.subject import make
from serve.bench.timing import Stopwatch

CASE = Case(shape="one_layer", height=32, width=32, window_frames=5, steps=1, decoder=False)
EARLY, LATE = 100, 14_400  # chunks; the later one is shown after 40 minutes


def soak(stopwatch: Stopwatch, *, chunks: int, around: int = 200) -> dict[str, Any]:
    """Run `chunks` chunks; bytes of memory gained on the way, milliseconds early and late, and the worst angle.

    around: chunks whose median stands for one.
    """
    subject = make(CASE, stopwatch.device)
    subject.start()
    times, sizes = [], {}
    for number in range(chunks):
        times.append(stopwatch.ms(subject.denoise))
        if number in (chunks // 2, chunks - 1):
            sizes[number] = allocated(stopwatch.device)
    early, late = min(EARLY, around), min(LATE, chunks - around)
    first, last = (statistics.median(times[at : at + around]) for at in (early, late))
    return {
        "chunks": chunks,
        "memory_slope_bytes_per_1000_chunks": 1000 * (sizes[chunks - 1] - sizes[chunks // 2]) / (chunks / 2),
        "chunk_ms": {f"at {early}": first, f"at {late}": last},
        "late_over_early": last / first,
        "worst_angle": worst_angle(subject.rollout, [EARLY, LATE, subject.rollout.frame]),
        "finite": bool(torch.isfinite(subject.rollout.cache.k).all()),
    }


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
