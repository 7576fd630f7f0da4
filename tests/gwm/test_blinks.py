import numpy as np
import pytest

from gwm.blinks import BLINKS, BLINKS_PER_MINUTE, MIN_BLINK_GAP_S, blinking

MINUTES, FPS = 30, 24
FRAMES = MINUTES * 60 * FPS


def starts(closure: np.ndarray) -> np.ndarray:
    return np.flatnonzero((closure > 0) & (np.concatenate([[0], closure[:-1]]) == 0))


def test_a_stream_blinks_the_same_however_it_is_cut():
    rng = np.random.default_rng(0)
    whole, parts, at = blinking(3, 0, 5000), [], 0
    while at < 5000:
        size = min(int(rng.integers(1, 90)), 5000 - at)
        parts.append(blinking(3, at, size))
        at += size
    assert whole.any() and np.array_equal(np.concatenate(parts), whole)


def test_blinks_have_a_natural_rate_a_least_gap_and_close_the_eyes():
    closure = blinking(0, 0, FRAMES)
    found = starts(closure)
    assert len(found) / MINUTES == pytest.approx(BLINKS_PER_MINUTE, rel=0.1)
    assert np.diff(found).min() >= MIN_BLINK_GAP_S * FPS
    shapes = {tuple(closure[at : at + 6][closure[at : at + 6] > 0].astype(float).round(1)) for at in found}
    assert shapes == set(BLINKS)


def test_times_do_not_repeat():
    """Neither from seed to seed nor in the next minute, and not at equal distances."""
    first, again, other = blinking(1, 0, 1440), blinking(1, 1440, 1440), blinking(2, 0, 1440)
    assert not np.array_equal(first, again) and not np.array_equal(first, other)
    assert np.diff(starts(blinking(1, 0, FRAMES))).std() > FPS


def test_a_seed_may_be_any_number():
    """As in `gwm.sampler.frame_noise`."""
    assert blinking(-5, 0, 2000).any() and blinking(2**70, 0, 2000).any()
