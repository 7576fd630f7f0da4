"""How sure a mean is, and how well two groups are told apart."""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float

RESAMPLES = 2000


@dataclass(frozen=True, slots=True)
class Interval:
    """A mean and its 95 % bootstrap confidence interval; all NaN without a finite value."""

    mean: float
    low: float
    high: float
    count: int


def bootstrap(values: Float[np.ndarray, " k"], *, seed: int = 0) -> Interval:
    """Percentile interval of the mean over the finite values, which must be independent: one per clip, not per frame.

    For a difference of two models give the differences of the same clips.

    Source: Efron and Tibshirani 1993, "An Introduction to the Bootstrap", Sec. 13.3.
    """
    finite = values[np.isfinite(values)]
    if not len(finite):
        return Interval(float("nan"), float("nan"), float("nan"), 0)
    picks = np.random.default_rng(seed).integers(len(finite), size=(RESAMPLES, len(finite)))
    low, high = np.quantile(finite[picks].mean(axis=1), [0.025, 0.975])
    return Interval(float(finite.mean()), float(low), float(high), len(finite))


def auc(positive: Float[np.ndarray, " k"], negative: Float[np.ndarray, " m"]) -> float:
    """Area under the ROC curve: how often a positive is above a negative, ties counting half. 0.5 is chance."""
    below = np.searchsorted(np.sort(negative), positive, side="left")
    not_above = np.searchsorted(np.sort(negative), positive, side="right")
    return float((below + not_above).mean() / 2 / len(negative))
