"""Lip-sync with ground truth: the lip gap that a face mesh sees against the gap that was meant."""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float

STILL = 1e-6  # standard deviation below which a mouth does not move: there is no correlation


@dataclass(frozen=True, slots=True)
class LipSync:
    """Agreement of two lip openings. All numbers are finite; a mouth that does not move has correlation 0.

    So has a clip in which nobody was to speak: leave out of an average what `moves` says of its truth.
    """

    correlation: float  # at lag 0, in [-1, 1]
    lag_frames: int  # of the best correlation; > 0: the mouth comes after the voice
    best_correlation: float


def lip_sync(measured: Float[np.ndarray, " f"], truth: Float[np.ndarray, " f"], *, max_lag: int = 5) -> LipSync:
    """Pearson correlation of measured and true opening at lag 0 and at the best lag within +-`max_lag` frames.

    Raises:
        ValueError: the lengths differ, or leave fewer than three frames at the largest lag.
    """
    if len(measured) != len(truth):
        raise ValueError(f"measured has {len(measured)} frames, must have as many as truth, {len(truth)}.")
    if len(truth) < max_lag + 3:
        raise ValueError(f"{len(truth)} frames must be at least max_lag={max_lag} + 3: use a longer clip.")
    lags = sorted(range(-max_lag, max_lag + 1), key=abs)  # among equals the smallest lag wins
    correlations = {lag: correlation(*_delayed(measured, truth, lag)) for lag in lags}
    best = max(lags, key=correlations.__getitem__)
    return LipSync(
        correlation=correlations[0],
        lag_frames=best,
        best_correlation=correlations[best],
    )


def moves(opening: Float[np.ndarray, " f"]) -> bool:
    """Whether a mouth opens at all in the frames where it is seen."""
    seen = opening[np.isfinite(opening)]
    return len(seen) > 0 and bool(seen.std() >= STILL)


def correlation(a: Float[np.ndarray, " f"], b: Float[np.ndarray, " f"]) -> float:
    """Pearson correlation over the frames where both are finite; 0 where one of them does not vary."""
    both = np.isfinite(a) & np.isfinite(b)
    a, b = a[both], b[both]
    if len(a) < 3 or not moves(a) or not moves(b):
        return 0.0
    return float(np.corrcoef(a, b)[0, 1])


def _delayed(measured: np.ndarray, truth: np.ndarray, lag: int) -> tuple[np.ndarray, np.ndarray]:
    """The overlap of `measured` with `truth` delayed by `lag` frames."""
    if lag >= 0:
        return measured[lag:], truth[: len(truth) - lag]
    return measured[:lag], truth[-lag:]
