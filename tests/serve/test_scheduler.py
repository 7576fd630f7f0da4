import random

import pytest

from serve.bench.simulation import compare, simulate, speakers
from serve.scheduler import POLICIES, Scheduler, least_slack

PERIOD_S, COST_S = 1 / 6, 0.04


def scheduler(policy: object = least_slack, **costs: float) -> Scheduler:
    made = Scheduler(lambda: 10.0, policy=policy)
    for name, cost_s in costs.items():
        made.open(name, period_s=1.0, cost_s=cost_s)
    return made


def test_the_stream_that_must_begin_soonest_goes_first():
    """a is due sooner, but b takes longer."""
    made = scheduler(a=0.1, b=0.5)
    made.ready("a", deadline_s=11.0)
    made.ready("b", deadline_s=11.2)
    assert made.choose().name == "b"


def test_a_chunk_that_is_late_already_lets_the_others_be_in_time():
    made = scheduler(a=0.1, b=0.1)
    made.ready("a", deadline_s=9.0)
    made.ready("b", deadline_s=12.0)
    assert made.choose().name == "b"
    made.done("b", took_s=0.1)
    assert made.choose().name == "a"


def test_nothing_is_chosen_when_nothing_is_ready():
    assert scheduler(a=0.1).choose() is None


def test_there_is_room_for_streams_that_would_make_nobody_late():
    made = scheduler(a=0.4)
    assert made.room(period_s=1.0, cost_s=0.4) == 1
    made.open("b", period_s=1.0, cost_s=0.4)
    assert made.room(period_s=1.0, cost_s=0.4) == 0 and made.room(period_s=2.0, cost_s=0.1) == 2
    made.close("a")
    assert made.room(period_s=1.0, cost_s=0.4) == 1
    with pytest.raises(ValueError, match="name='b' is a stream already"):
        made.open("b", period_s=1.0, cost_s=0.1)


def test_room_follows_measured_costs():
    made = scheduler(a=0.2, b=0.2)
    for _ in range(20):
        made.done("a", took_s=0.6)
    assert made.room(period_s=1.0, cost_s=0.2) == 0
    for _ in range(200):
        made.done("a", took_s=0.1)
    assert made.room(period_s=1.0, cost_s=0.2) == 2


def on_time(policy: str, count: int, seed: int) -> tuple[float, float]:
    rows = compare(
        {policy: POLICIES[policy]}, counts=[count], duration_s=60.0, seed=seed, cost_s=COST_S, period_s=PERIOD_S
    )
    return rows[0]["on_time"], rows[0]["load"]


@pytest.mark.parametrize("count", range(1, 9))
@pytest.mark.parametrize("seed", [0, 1])
def test_least_slack_is_never_worse_than_first_come_and_round_robin(count: int, seed: int):
    mine, load = on_time("least_slack", count, seed)
    others = [on_time(policy, count, seed)[0] for policy in ("first_come", "round_robin")]
    assert mine >= max(others)
    if load < 0.9:  # what admission lets in
        assert mine == 1.0
    if load > 1:  # a fifth too much leaves the others next to nothing
        assert mine > 0.5 > 0.05 > max(others)


def test_without_spread_every_policy_serves_all_that_fit():
    for policy in POLICIES.values():
        streams = speakers(4, seed=3, cost_s=COST_S, period_s=PERIOD_S)
        simulate(streams, policy, duration_s=30.0, seed=0, draw=lambda cost_s, generator: cost_s)
        assert [stream.on_time(30.0) for stream in streams] == [1.0] * 4


def test_a_chunk_is_never_made_before_its_sound_is_there():
    streams = speakers(2, seed=0, cost_s=COST_S, period_s=PERIOD_S)
    simulate(streams, least_slack, duration_s=20.0, seed=0, draw=lambda cost_s, generator: cost_s)
    for stream in streams:
        heard = [stream.open_s + chunk * PERIOD_S for chunk in range(len(stream.arrivals_s))]
        assert all(arrival >= sound + COST_S - 1e-9 for arrival, sound in zip(stream.arrivals_s, heard, strict=True))
        assert len(stream.arrivals_s) == pytest.approx((20 - stream.open_s) / PERIOD_S, abs=2)


def test_the_same_seed_is_the_same_simulation():
    runs = [compare(POLICIES, counts=[4], duration_s=10.0, seed=5, cost_s=COST_S, period_s=PERIOD_S) for _ in range(2)]
    random.random()
    assert runs[0] == runs[1]
