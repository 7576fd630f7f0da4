"""How far a set of pictures is from the true set, whoever is in them: Frechet distances of features.

The backbone is the AlexNet of ST-LPIPS (ImageNet weights), so these numbers are no FID and no FVD, and say so in their
names: `frechet_alexnet` (pictures) and `frechet_motion_alexnet` (what changes from one frame to the next but one).
"""

import numpy as np
from jaxtyping import Float, UInt8

from gwm.metrics.distance import PerceptualDistance

PICTURE_DEPTH, MOTION_DEPTH = 5, 3  # activations: 256 channels of things, 384 of edges and patterns that move
STRIDE = 2  # frames between which motion is measured
COMPONENTS = 32  # principal components of the truth that are compared: a covariance of 256 needs thousands of frames
SAMPLES_PER_COMPONENT = 4
MIN_VECTORS = 2 * SAMPLES_PER_COMPONENT  # on each side


def picture_features(frames: UInt8[np.ndarray, "f h w 3"], network: PerceptualDistance) -> Float[np.ndarray, "f 256"]:
    """One vector a frame."""
    return network.features(frames, depth=PICTURE_DEPTH).mean(dim=(2, 3)).numpy()


def motion_features(
    frames: UInt8[np.ndarray, "f h w 3"], network: PerceptualDistance, starts: range
) -> Float[np.ndarray, "k 384"]:
    """One vector for each start: how much every channel changes until STRIDE frames later. 0 where nothing moves."""
    first, second = (network.features(frames[[s + gap for s in starts]], depth=MOTION_DEPTH) for gap in (0, STRIDE))
    return (second - first).abs().mean(dim=(2, 3)).numpy()


def frechet(features: Float[np.ndarray, "k c"], truth: Float[np.ndarray, "m c"]) -> float:
    """Squared Frechet distance of two normal distributions, in the truth's principal components, each of variance 1
    in the truth on average: 0 is equal, 1 is a shift by a typical deviation.

    Source: Heusel et al. 2017, arXiv:1706.08500, Eq. 6; without components the covariances of few samples are singular.

    Raises:
        ValueError: fewer than eight vectors on a side.
    """
    if min(len(features), len(truth)) < MIN_VECTORS:
        raise ValueError(
            f"features has {len(features)} and truth {len(truth)} vectors, must have {MIN_VECTORS} each "
            "at least: measure more clips."
        )
    count = min(COMPONENTS, len(truth) // SAMPLES_PER_COMPONENT)
    centre = truth.mean(axis=0)
    _, deviation, directions = np.linalg.svd((truth - centre).astype(np.float64), full_matrices=False)
    scale = np.sqrt(np.square(deviation[:count]).mean() / len(truth)) + 1e-12
    x, y = ((part - centre) @ directions[:count].T / scale for part in (features, truth))
    return _frechet(x.mean(0), np.cov(x.T), y.mean(0), np.cov(y.T))


def _frechet(mean_x: np.ndarray, cov_x: np.ndarray, mean_y: np.ndarray, cov_y: np.ndarray) -> float:
    # The trace of sqrt(cov_x cov_y) is that of the symmetric sqrt(root cov_x root), with root = sqrt(cov_y).
    values, vectors = np.linalg.eigh(cov_y)
    root = (vectors * np.sqrt(values.clip(min=0))) @ vectors.T
    cross = np.sqrt(np.linalg.eigvalsh(root @ cov_x @ root).clip(min=0)).sum()
    return float(np.square(mean_x - mean_y).sum() + np.trace(cov_x) + np.trace(cov_y) - 2 * cross)
