import numpy as np
import pytest

from gwm.metrics.identity import share, stranger_similarity


def embed(image: np.ndarray) -> np.ndarray | None:
    """The first pixel as a place on a line; no face in a black picture."""
    return np.eye(1, 128)[0] * image[0, 0, 0] / 100 if image.any() else None


def test_the_floor_is_the_mean_over_pairs_of_different_people():
    people = {name: np.full((2, 2, 3), level, np.uint8) for name, level in (("a", 10), ("b", 40), ("c", 70), ("d", 0))}
    assert stranger_similarity(people, embed) == pytest.approx(1 - (0.3 + 0.6 + 0.3) / 3)
    assert np.isnan(stranger_similarity({"a": people["a"], "d": people["d"]}, embed))


def test_a_share_is_0_for_a_stranger_and_1_for_the_same_person():
    assert share(0.48, floor=0.48, ceiling=0.83) == 0
    assert share(0.83, floor=0.48, ceiling=0.83) == 1
    assert share(0.692, floor=0.48, ceiling=0.829) == pytest.approx(0.61, abs=0.005)
