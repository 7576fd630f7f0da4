import itertools

import numpy as np
import pytest

from gwm.metrics.movement import seed_diversity
from gwm.metrics.statistics import auc, bootstrap, sign_flip_p, standard_error


def test_interval_covers_the_true_mean_as_often_as_it_says():
    rng = np.random.default_rng(0)
    singly = [str(k) for k in range(40)]
    intervals = [bootstrap(rng.normal(3, 1, 40), singly, seed=k) for k in range(200)]
    assert np.mean([got.low < 3 < got.high for got in intervals]) == pytest.approx(0.95, abs=0.05)
    assert np.mean([got.high - got.low for got in intervals]) == pytest.approx(2 * 1.96 / np.sqrt(40), rel=0.05)


def test_interval_of_people_with_two_clips_covers_the_true_mean():
    """Clips drawn singly cover it in 84 % of experiments only: two clips of a person are alike."""
    rng, people = np.random.default_rng(1), [str(k // 2) for k in range(48)]
    clips = [np.repeat(rng.normal(3, 1, 24), 2) + rng.normal(0, 0.3, 48) for _ in range(500)]

    def covered(groups: list[str]) -> float:
        return float(np.mean([(i := bootstrap(c, groups, seed=k)).low < 3 < i.high for k, c in enumerate(clips)]))

    assert covered(people) == pytest.approx(0.95, abs=0.03)
    assert covered([str(k) for k in range(48)]) < 0.88


def test_error_of_a_mean_over_groups_is_its_spread_over_experiments():
    rng, groups = np.random.default_rng(0), [str(k) for k in range(20) for _ in range(1 + k % 3)]
    number = np.array(groups).astype(int)
    clips = [rng.normal(3, 1, 20)[number] + rng.normal(0, 0.3, len(number)) for _ in range(600)]
    errors = [standard_error(values, groups) for values in clips]
    assert np.sqrt(np.mean(np.square(errors))) == pytest.approx(np.std([c.mean() for c in clips]), rel=0.1)
    assert np.isnan(standard_error(np.array([1.0, 2.0]), ["a", "a"]))


def test_missing_values_are_left_out():
    got = bootstrap(np.array([1.0, np.nan, 3.0]), ["a", "b", "c"])
    assert (got.mean, got.count, got.groups) == (2, 2, 2)
    assert np.isnan(bootstrap(np.array([np.nan]), ["a"]).mean)


def test_auc_is_the_share_of_ordered_pairs():
    assert auc(np.array([3.0, 4.0]), np.array([1.0, 2.0])) == 1
    assert auc(np.array([1.0, 2.0]), np.array([1.0, 2.0])) == 0.5
    assert auc(np.array([2.0]), np.array([1.0, 2.0, 3.0, 4.0])) == 0.375


def test_diversity_is_the_mean_difference_of_pairs():
    flat = [np.full((2, 4, 4, 3), level, np.uint8) for level in (10, 20, 40)]
    assert seed_diversity(flat) == pytest.approx((10 + 20 + 30) / 3)
    assert seed_diversity([flat[0], flat[0]]) == 0
    with pytest.raises(ValueError, match="more seeds"):
        seed_diversity(flat[:1])


def test_signs_of_paired_differences_are_told_from_chance():
    """Oracle: all 2^k signs of few differences."""
    few = np.array([0.5, -0.1, 0.3, 0.4, np.nan, 0.2])
    found = few[np.isfinite(few)]
    every = np.array(list(itertools.product([-1, 1], repeat=len(found)))) @ found
    assert sign_flip_p(few) == pytest.approx((every >= found.sum() - 1e-9).mean(), abs=0.01)
    assert sign_flip_p(-few) > 0.9 and sign_flip_p(np.full(40, 0.1)) < 1e-3 and sign_flip_p(np.array([np.nan])) == 1
