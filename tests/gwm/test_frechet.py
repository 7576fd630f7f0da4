"""Frechet distances against the closed form, and whether they rank what is wrong with pictures and with motion."""

from collections.abc import Callable

import numpy as np
import pytest

from data.crops import halve
from gwm.metrics.distance import PerceptualDistance
from gwm.metrics.frechet import frechet, motion_features, picture_features
from gwm.optional import MissingPackageError
from tests.gwm.test_metrics import blurred, noisy

STARTS = range(0, 22, 4)


@pytest.fixture(scope="module")
def backbone() -> PerceptualDistance:
    try:
        return PerceptualDistance()
    except MissingPackageError as error:
        pytest.skip(str(error))


def test_distance_of_normal_distributions_is_the_closed_form():
    """Diagonal covariances: (difference of means)^2 + (difference of deviations)^2, summed; in the truth's scale."""
    rng = np.random.default_rng(0)
    truth = rng.normal(0, 1, (40_000, 4)) * [1, 2, 3, 4]
    moved = rng.normal(0, 1, (40_000, 4)) * [1, 2, 3, 8] + [0, 6, 0, 0]
    scale = np.mean([1, 4, 9, 16])
    assert frechet(moved, truth) == pytest.approx((6**2 + 4**2) / scale, rel=0.03)
    assert frechet(truth[:20_000], truth[20_000:]) < 0.01


def test_order_of_samples_does_not_matter():
    rng = np.random.default_rng(0)
    truth = rng.normal(size=(64, 8))
    assert frechet(rng.permutation(truth), truth) == pytest.approx(0, abs=1e-9)


def test_too_few_vectors_are_refused():
    with pytest.raises(ValueError, match="measure more clips"):
        frechet(np.zeros((7, 3)), np.zeros((40, 3)))


@pytest.fixture(scope="module")
def clips(talks) -> list[np.ndarray]:
    """At 64 px: a quarter of the time."""
    return [halve(talk.frames) for talk in talks]


def test_pictures_are_ranked(clips, backbone):
    """Real, blurred, noise; a clip played later or frozen has the same pictures and must stay near."""
    frames = np.concatenate([clip[::2] for clip in clips])
    truth = picture_features(frames, backbone)

    def distance(pixels: np.ndarray) -> float:
        return frechet(picture_features(pixels, backbone), truth)

    frozen = np.concatenate([np.repeat(clip[:1], 12, axis=0) for clip in clips])
    assert distance(frames) < 1e-6 < distance(frozen) < distance(blurred(frames, 1.5)) < distance(noisy(frames, 60))


def test_motion_is_ranked(clips, backbone):
    """Blur takes motion away, more blur more, a frozen clip has none, and noise too much."""
    truth = np.concatenate([motion_features(clip, backbone, STARTS) for clip in clips])

    def distance(change: Callable[[np.ndarray], np.ndarray]) -> float:
        return frechet(np.concatenate([motion_features(change(clip), backbone, STARTS) for clip in clips]), truth)

    soft, softer = (distance(lambda frames, r=radius: blurred(frames, r)) for radius in (0.5, 1.0))
    frozen = distance(lambda frames: np.repeat(frames[:1], len(frames), axis=0))
    assert distance(lambda frames: frames) < 1e-6 < soft < softer < frozen
    assert softer < distance(lambda frames: noisy(frames, 60))
