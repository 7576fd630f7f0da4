import numpy as np
import pytest

from gwm.metrics.diversity import seed_diversity
from gwm.metrics.statistics import auc, bootstrap


def test_interval_covers_the_true_mean_as_often_as_it_says():
    rng = np.random.default_rng(0)
    intervals = [bootstrap(rng.normal(3, 1, 40), seed=k) for k in range(200)]
    assert np.mean([got.low < 3 < got.high for got in intervals]) == pytest.approx(0.95, abs=0.05)
    assert np.mean([got.high - got.low for got in intervals]) == pytest.approx(2 * 1.96 / np.sqrt(40), rel=0.05)


def test_missing_values_are_left_out():
    got = bootstrap(np.array([1.0, np.nan, 3.0]))
    assert (got.mean, got.count) == (2, 2)
    assert np.isnan(bootstrap(np.array([np.nan])).mean)


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
