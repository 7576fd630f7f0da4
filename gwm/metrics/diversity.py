"""How much clips of different seeds differ."""

from itertools import combinations

import numpy as np
from jaxtyping import UInt8


def seed_diversity(versions: list[UInt8[np.ndarray, "f h w 3"]]) -> float:
    """Mean absolute difference between every two versions of one clip, in grey levels of 255; 0: all are equal.

    Raises:
        ValueError: fewer than two versions.
    """
    if len(versions) < 2:
        raise ValueError(f"{len(versions)} versions must be at least 2: play the clip with more seeds.")
    return float(np.mean([np.abs(a.astype(np.float32) - b).mean() for a, b in combinations(versions, 2)]))
