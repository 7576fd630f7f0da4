"""Confidence intervals of means, and the separability of two groups."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float
from scipy.special import ndtr, stdtrit

RESAMPLES = 2000
PERMUTATIONS = 10_000


@dataclass(frozen=True, slots=True)
class Interval:
    """A mean and its 95 % bootstrap confidence interval; all NaN without a finite value."""

    mean: float
    low: float
    high: float
    count: int  # values
    groups: int  # independent groups of them


def bootstrap(values: Float[np.ndarray, " k"], groups: Sequence[str], *, seed: int = 0) -> Interval:
    """Percentile interval of the mean over the finite values; one per clip, not per frame.

    groups: to whom each value belongs, as the person of a clip. Groups must be independent and are drawn with all
    their values: two clips of one person are alike, and clips drawn singly would make the interval too narrow.
    For a difference of two models give the differences of the same clips.

    Source: Hesterberg 2014, arXiv:1411.5279, Sec. 4 (expanded percentile interval); groups as in Davison and Hinkley
    1997, "Bootstrap Methods and their Application", Sec. 3.8.
    """
    sums, counts = group_sums(values, groups)
    if not len(sums):
        return Interval(float("nan"), float("nan"), float("nan"), 0, 0)
    picks = np.random.default_rng(seed).integers(len(sums), size=(RESAMPLES, len(sums)))
    # Drawn means spread too little by sqrt((g - 1) / g), and few groups have Student's tails.
    outside = ndtr(np.sqrt(len(sums) / max(len(sums) - 1, 1)) * stdtrit(max(len(sums) - 1, 1), 0.025))
    low, high = np.quantile(sums[picks].sum(axis=1) / counts[picks].sum(axis=1), [outside, 1 - outside])
    return Interval(float(sums.sum() / counts.sum()), float(low), float(high), int(counts.sum()), len(sums))


def standard_error(values: Float[np.ndarray, " k"], groups: Sequence[str]) -> float:
    """Standard error of the mean over the finite values, in groups as in `bootstrap`; NaN with fewer than two groups.

    Source: Cochran 1977, "Sampling Techniques", Ch. 9A (a mean over clusters of unequal size as a ratio estimate).
    """
    sums, counts = group_sums(values, groups)
    if len(sums) < 2:
        return float("nan")
    residuals = sums - counts * sums.sum() / counts.sum()
    return float(np.sqrt(np.square(residuals).sum() * len(sums) / (len(sums) - 1)) / counts.sum())


def sign_flip_p(differences: Float[np.ndarray, " k"], *, seed: int = 0) -> float:
    """How often the mean of as many differences is as high if their signs are random: the p-value, one-sided, of their
    being above 0, over those that are finite. 1 where there is none.

    Source: Good 2005, "Permutation, Parametric and Bootstrap Tests of Hypotheses", Sec. 3.2 (paired comparison).
    """
    found = differences[np.isfinite(differences)]
    if not len(found):
        return 1.0
    signs = np.random.default_rng(seed).choice([-1.0, 1.0], size=(PERMUTATIONS, len(found)))
    as_high = (signs @ found >= found.sum() - 1e-9).sum()
    return float((1 + as_high) / (1 + PERMUTATIONS))


def group_sums(
    values: Float[np.ndarray, " k"], groups: Sequence[str]
) -> tuple[Float[np.ndarray, " g"], Float[np.ndarray, " g"]]:
    """Sum and number of each group's finite values, of the groups that have one."""
    kept = np.isfinite(values)
    number = np.unique(np.array(groups)[kept], return_inverse=True)[1]
    return np.bincount(number, weights=values[kept]).astype(float), np.bincount(number).astype(float)


def auc(positive: Float[np.ndarray, " k"], negative: Float[np.ndarray, " m"]) -> float:
    """Area under the ROC curve: how often a positive is above a negative, ties counting half. 0.5 is chance."""
    below = np.searchsorted(np.sort(negative), positive, side="left")
    not_above = np.searchsorted(np.sort(negative), positive, side="right")
    return float((below + not_above).mean() / 2 / len(negative))
