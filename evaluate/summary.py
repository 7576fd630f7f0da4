"""Numbers over clips: means with confidence intervals, distances of sets, and the comparison with a baseline."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal

import numpy as np
from jaxtyping import Float

from evaluate.examine import SIDES, Result
from gwm.metrics.frechet import MIN_VECTORS, frechet
from gwm.metrics.statistics import Interval, bootstrap

Goal = Literal["more", "less", "zero", "render"]  # render: the render's own value is the best one

# What is better, for the verdict of a comparison.
GOALS: dict[str, Goal] = {
    "lip_sync": "more",
    "lag_frames": "zero",
    "sync_confidence": "more",
    "sync_distance": "less",
    "sync_lag_frames": "zero",
    "false_mouth": "less",
    "user_response": "more",
    "user_response_shuffled": "zero",
    "opening": "render",
    "head_motion": "render",
    "blinks_per_minute": "render",
    "nods_per_minute": "render",
    "identity": "more",
    "faces_found": "more",
    "psnr": "more",
    "ssim": "more",
    "perceptual": "less",
    "motion": "render",
    "saturation": "render",
    "exposure": "render",
    "sharpness": "render",
    "border_flicker": "render",
    "seed_diversity": "more",
}
FRECHETS = {"picture": "frechet_alexnet", "motion": "frechet_motion_alexnet"}  # features and names of distances
MIN_PAIRS = 5  # people below which nothing is called better, worse, or chance


@dataclass(frozen=True, kw_only=True, slots=True)
class Difference:
    """A metric of two models on the same clips; 95 % interval of the mean difference, people resampled."""

    metric: str
    model: float
    baseline: float
    difference: float
    low: float
    high: float
    clips: int
    verdict: str  # better, worse, or "undecided" where the interval of what counts holds 0


def column(results: Sequence[Result], side: str, metric: str) -> Float[np.ndarray, " k"]:
    """A metric of every clip; NaN where a clip does not have it."""
    return np.array([result.rows[side].get(metric, np.nan) for result in results])


def people(results: Sequence[Result]) -> list[str]:
    """The person of every clip."""
    return [result.person for result in results]


def metric_names(results: Sequence[Result]) -> list[str]:
    """Metrics that some clip has, in the order of GOALS."""
    found = {name for result in results for row in result.rows.values() for name in row}
    return [name for name in GOALS if name in found]


def intervals(results: Sequence[Result]) -> dict[str, dict[str, Interval]]:
    """Mean and interval of every metric, of model and renders."""
    names = metric_names(results)
    table = {side: {name: bootstrap(column(results, side, name), people(results)) for name in names} for side in SIDES}
    return {side: {name: got for name, got in row.items() if got.count} for side, row in table.items()}


def frechets(results: Sequence[Result]) -> dict[str, float]:
    """Frechet distances of the model's pictures and motion from the renders' of the same clips."""
    usable = [result for result in results if result.features["model"]]
    if not usable:
        return {}
    sides = {
        kind: [np.concatenate([result.features[side][kind] for result in usable]) for side in SIDES]
        for kind in FRECHETS
    }
    return {FRECHETS[kind]: frechet(model, renders) for kind, (model, renders) in sides.items()}


def frechet_floors(results: Sequence[Result]) -> dict[str, float]:
    """What two halves of the renders, of different people, are apart: below it, no model differs from them.
    Nothing with too few clips for two halves."""
    usable = [result for result in results if result.features["model"]]
    halves: list[list[Result]] = [[], []]
    number = {person: k for k, person in enumerate(sorted(set(people(usable))))}
    for result in usable:
        halves[number[result.person] % 2].append(result)
    if not all(halves):
        return {}
    floors = {}
    for kind, name in FRECHETS.items():
        first, second = (np.concatenate([r.features["renders"][kind] for r in half]) for half in halves)
        if min(len(first), len(second)) >= MIN_VECTORS:
            floors[name] = frechet(first, second)
    return floors


def numbers(results: Sequence[Result]) -> dict[str, Any]:
    """What report.json says of the clips."""
    table = intervals(results)
    return {
        "clips": len(results),
        **{side: {name: got.mean for name, got in table[side].items()} for side in SIDES},
        "intervals": {side: {name: asdict(got) for name, got in table[side].items()} for side in SIDES},
        "frechet": frechets(results),
        "frechet_floor": frechet_floors(results),
        "rows": {result.key: result.rows for result in results},
    }


def merit(values: np.ndarray, renders: np.ndarray, goal: Goal) -> np.ndarray:
    """Values of a metric with the sign or distance that makes more better."""
    if goal == "render":
        return -np.abs(values - renders)
    return {"more": values, "less": -values, "zero": -np.abs(values)}[goal]


def compare(results: Sequence[Result], baseline: Sequence[Result]) -> list[Difference]:
    """Every metric that both have, clip by clip.

    Raises:
        ValueError: the two were not measured on the same clips.
    """
    ours, theirs = [r.key for r in results], [r.key for r in baseline]
    if ours != theirs:
        raise ValueError(f"baseline was measured on clips {theirs}, must be the model's: {ours}.")
    return [row for name in metric_names(results) if (row := _difference(name, results, baseline)) is not None]


def _difference(name: str, results: Sequence[Result], baseline: Sequence[Result]) -> Difference | None:
    model, other = column(results, "model", name), column(baseline, "model", name)
    both = np.isfinite(model) & np.isfinite(other)
    if not both.any():
        return None
    who = people(results)
    got = bootstrap(np.where(both, model - other, np.nan), who)
    renders = np.nan_to_num(column(results, "renders", name))  # seeds have no render: the goal is not "render" then
    merits = [merit(side, renders, GOALS[name]) for side in (model, other)]
    gain = bootstrap(np.where(both, merits[0] - merits[1], np.nan), who)
    decided = gain.groups >= MIN_PAIRS and (gain.low > 0 or gain.high < 0)
    return Difference(
        metric=name,
        model=float(model[both].mean()),
        baseline=float(other[both].mean()),
        difference=got.mean,
        low=got.low,
        high=got.high,
        clips=got.count,
        verdict=("better" if gain.mean > 0 else "worse") if decided else "undecided",
    )
