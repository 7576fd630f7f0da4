"""When a chunk is begun, and from where on the latest one can have another sound; a chunk lasts 167 ms."""

import pytest

from serve.live.avatar.pace import Pace
from tests.serve.live.level_face import TIMING

RATE = TIMING.sample_rate
LEAST = TIMING.lead_samples - TIMING.chunk_samples  # that are left when a chunk is begun as late as may be: 133 ms


def paced(*steps_s: float) -> Pace:
    pace = Pace(TIMING)
    for seconds in steps_s:
        pace.count(seconds)
    return pace


def left(pace: Pace, *, silent: bool, waits: bool = False) -> int:
    """Samples that are still to be played when a chunk is begun."""
    return TIMING.lead_samples - pace.room_samples(silent=silent, waits=waits)


@pytest.mark.parametrize(
    ("silent", "waits", "left_s"),
    [(False, False, 1.3 * 0.11), (True, False, 0.11 + 0.05), (True, True, LEAST / RATE + 0.04)],
)
def test_a_chunk_is_begun_as_early_as_the_slowest_needs_and_in_silence_as_two_need(
    silent: bool, waits: bool, left_s: float
):
    """Or as the lead allows, where speech waits for it."""
    assert abs(left(paced(0.04, 0.05, 0.11), silent=silent, waits=waits) - RATE * left_s) < 2


def test_it_is_begun_no_earlier_than_the_lead_allows():
    pace = paced(0.04, 0.05, 0.5)
    assert all(abs(left(pace, silent=silent) - LEAST - 0.04 * RATE) < 2 for silent in (False, True))
    assert left(paced(0.01), silent=True) == left(Pace(TIMING), silent=True) == LEAST


def test_speech_begins_where_a_chunk_is_there_in_time_and_the_next_one_too():
    pace = paced(0.04, 0.05, 0.11)
    assert pace.onset_sample(queued_samples=int(0.15 * RATE)) is None  # the next one would be late
    queued = int(0.2 * RATE)
    sample = pace.onset_sample(queued_samples=queued)
    assert sample is not None and abs(queued - TIMING.chunk_samples + sample - 1.3 * 0.05 * RATE) < 2
    assert pace.onset_sample(queued_samples=TIMING.chunk_samples + 2_000) == 0  # all of it is still to come
    assert Pace(TIMING).onset_sample(queued_samples=queued) is None
