import numpy as np
import pytest

from serve.bench.live_numbers import drift, growth, paired, picture, spread


def test_a_steady_picture_has_its_rate_and_no_freeze():
    at = 1000 / 24 * np.arange(241)
    numbers = picture({"times": at, "clock": (3_750 * np.arange(241) + 2**32 - 7_500) % 2**32})
    assert (numbers["seconds"], numbers["fps"], numbers["rtp_over_wall"]) == (10.0, 24.0, 1.0)
    assert numbers["freezes"] == 0 and numbers["gap_ms"]["max"] == 41.7


def test_a_gap_is_a_freeze_and_a_wrong_clock_is_seen():
    at = 1000 / 24 * np.arange(241)
    at[120:] += 300
    numbers = picture({"times": at, "clock": 3_000 * np.arange(241)})  # 30 frames a second on the clock
    assert numbers["freeze_ms"] == [342]
    assert numbers["rtp_over_wall"] == pytest.approx(0.8 * 10_000 / 10_300, abs=1e-3)


def test_growth_counts_from_the_end_of_the_warm_up():
    sizes = [*np.linspace(100, 200, 50).tolist(), *[200.0] * 150]
    numbers = growth(sizes, every_s=1.0)
    assert (numbers["start"], numbers["warm"], numbers["end"]) == (100, 200, 200)
    assert numbers["slope_per_minute"] == 0 and numbers["change_percent"] == 0


def test_growth_that_does_not_end_has_its_slope():
    numbers = growth((100 + np.arange(240) / 60).tolist(), every_s=1.0)  # a megabyte a minute
    assert numbers["slope_per_minute"] == pytest.approx(1.0)
    assert numbers["change_percent"] == pytest.approx(2.23, abs=0.1)


def test_what_a_sentence_takes_and_gives_back_is_no_growth():
    sizes = np.full(600, 700.0)
    sizes[np.arange(600) % 60 > 5] = 780  # spoken most of the time
    sizes[-40:] = 780
    numbers = growth(sizes.tolist(), every_s=1.0)
    assert numbers["change_percent"] == 0 and numbers["peak"] == 780


def test_drift_is_from_the_first_quarter_to_the_last():
    assert drift([-40.0] * 25 + [-35.0] * 50 + [-30.0] * 25)["moved"] == 10
    assert drift([]) == {"count": 0, "moved": 0.0} and spread([]) == {}


def test_flashes_are_paired_with_the_nearest_beep_and_strangers_left_out():
    beeps = [1_000.0, 2_000.0, 3_000.0]
    assert paired([960.0, 2_010.0, 3_450.0], beeps, within_ms=400.0) == [-40.0, 10.0]
    assert paired([1.0], [], within_ms=400.0) == []
