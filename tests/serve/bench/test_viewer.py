import pytest

from serve.bench.viewer import smallest_buffer, watch


def test_chunks_in_time_are_watched_without_a_stall():
    watched = watch([5.0, 6.0, 6.5, 8.0], period_s=1.0)
    assert (watched.num_stalls, watched.stalled_s, watched.attainment) == (0, 0.0, 1.0)


def test_a_late_chunk_stops_the_player_and_shifts_what_follows():
    """The third chunk is 1.5 s late; the fourth then comes in time for the player, but not for the clock."""
    watched = watch([0.0, 1.0, 3.5, 4.0, 4.0], period_s=1.0)
    assert (watched.num_stalls, watched.stalled_s) == (1, 1.5)
    assert watched.attainment == 3 / 5


@pytest.mark.parametrize("late_s, stalls", [(0.04, 0), (0.05, 1)])
def test_the_picture_before_may_stay_for_a_frame_more(late_s: float, stalls: int):
    """A 24th of a second, after which the player is in time again."""
    watched = watch([0.0, 1.0 + late_s, 2.0, 3.0], period_s=1.0)
    assert (watched.num_stalls, watched.stalled_s) == (stalls, pytest.approx(stalls * late_s))
    assert watched.attainment == (4 - stalls) / 4


def test_a_stream_that_is_a_little_too_slow_stalls_when_it_is_a_frame_behind():
    """What is forgiven once is not forgiven again: lateness adds up until it is seen."""
    watched = watch([number * 1.01 for number in range(13)], period_s=1.0)
    assert watched.num_stalls == 2
    assert watched.stalled_s == pytest.approx(2 * 0.05)


def test_the_smallest_buffer_bridges_the_longest_gap():
    arrivals = [0.0, 1.0, 4.0, 4.1, 4.2, 5.0]
    assert smallest_buffer(arrivals, period_s=1.0) == 3
    assert watch(arrivals, period_s=1.0, buffer_chunks=2).num_stalls == 1
