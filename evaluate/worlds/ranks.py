"""Whether a model ranks policies as their world does."""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float
from scipy.stats import rankdata

RESAMPLES = 2000


@dataclass(frozen=True, slots=True)
class Ranks:
    """Of policies' mean scores in a model against those in the world. NaN where one of them scores all alike."""

    spearman: float
    low: float  # 95 % percentile interval, starts resampled
    high: float
    pearson: float
    mmrv: float


def mmrv(model: Float[np.ndarray, " p"], real: Float[np.ndarray, " p"]) -> float:
    """Mean over policies of the maximum rank violation: by how much, in the world, a policy differs at most from one
    that the model puts on the other side of it. 0 where all are in order; in units of the score.

    Source: Li et al. 2024 (SIMPLER), arXiv:2405.05941, Sec. 3.
    """
    apart = np.abs(real[:, None] - real[None])
    wrong = (model[:, None] < model[None]) != (real[:, None] < real[None])
    return float((apart * wrong).max(axis=1).mean())


def spearman(model: Float[np.ndarray, " p"], real: Float[np.ndarray, " p"]) -> float:
    """Rank correlation, ties by their mean rank; NaN where one side is all alike."""
    if np.ptp(model) == 0 or np.ptp(real) == 0:
        return float("nan")
    return float(np.corrcoef(rankdata(model), rankdata(real))[0, 1])


def ranks(model: Float[np.ndarray, "p n"], real: Float[np.ndarray, "p n"], *, seed: int = 0) -> Ranks:
    """Of scores by policy and start, which are the same starts on both sides and resampled together."""
    means = model.mean(1), real.mean(1)
    rng, found = np.random.default_rng(seed), []
    for _ in range(RESAMPLES):
        drawn = rng.integers(real.shape[1], size=real.shape[1])
        found.append(spearman(model[:, drawn].mean(1), real[:, drawn].mean(1)))
    kept = np.array(found)[np.isfinite(found)]
    low, high = np.quantile(kept, [0.025, 0.975]) if len(kept) else (np.nan, np.nan)
    alike = np.ptp(means[0]) == 0 or np.ptp(means[1]) == 0
    pearson = float("nan") if alike else float(np.corrcoef(*means)[0, 1])
    return Ranks(spearman(*means), float(low), float(high), pearson, mmrv(*means))
