"""When a chunk is begun, and from where on the latest one can have another sound; a chunk lasts 167 ms."""

import pytest

from serve.live.avatar.chunk_times import ChunkTimes
from tests.serve.live.level_face import TIMING

RATE = TIMING.sample_rate
LEAST = TIMING.lead_samples - TIMING.chunk_samples  # that are left when a chunk is begun as late as may be: 133 ms


def taken(*chunks_s: float) -> ChunkTimes:
    times = ChunkTimes(TIMING)
    for seconds in chunks_s:
        times.add(seconds)
    return times


def left(times: ChunkTimes, *, silent: bool, speech_waits: bool = False) -> int:
    """Samples that are still to be played when a chunk is begun."""
    return TIMING.lead_samples - times.room_samples(silent=silent, speech_waits=speech_waits)


@pytest.mark.parametrize(
    ("chunks_s", "silent", "speech_waits", "left_s"),
    [
        ((0.04, 0.05, 0.11), False, False, 1.3 * 0.11),
        ((0.06, 0.06, 0.07), True, False, 1.3 * (0.06 + 0.07)),
        ((*[0.06] * 19, 0.11), True, False, 1.3 * (0.06 + 0.06)),  # one of twenty hardly comes just then
        ((0.12,), True, False, 1.3 * 0.12),  # two would not fit into the lead
        ((0.04, 0.05, 0.11), True, True, LEAST / RATE + 0.04),  # as the lead allows
    ],
)
def test_a_chunk_is_begun_as_early_as_the_slowest_needs_and_in_silence_as_two_need(
    chunks_s: tuple[float, ...], silent: bool, speech_waits: bool, left_s: float
):
    found = left(taken(*chunks_s), silent=silent, speech_waits=speech_waits)
    assert abs(found - RATE * left_s) < 2


def test_it_is_begun_no_earlier_than_the_lead_allows():
    times = taken(0.04, 0.05, 0.15)
    assert all(abs(left(times, silent=silent) - LEAST - 0.04 * RATE) < 2 for silent in (False, True))
    assert left(taken(0.01), silent=True) == left(ChunkTimes(TIMING), silent=True) == LEAST


def test_speech_begins_where_a_chunk_is_there_in_time_and_the_next_one_too():
    times = taken(0.04, 0.05, 0.11)
    assert times.onset_sample(queued_samples=int(0.2 * RATE)) is None  # the next one might be late
    queued = int(0.21 * RATE)
    sample = times.onset_sample(queued_samples=queued)
    assert sample is not None and abs(queued - TIMING.chunk_samples + sample - 1.3 * 0.05 * RATE) < 2
    assert times.onset_sample(queued_samples=TIMING.chunk_samples + 2_000) == 0  # all of it is still to come
    assert ChunkTimes(TIMING).onset_sample(queued_samples=queued) is None
