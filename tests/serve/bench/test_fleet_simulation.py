"""The simulated fleet against queueing theory, which knows none of the server's code."""

import math

import pytest

from serve.bench.fleet_simulation import Demand, Failures, Machine, Outcome, simulate
from serve.runway_api.session_queue import QUEUE_S

MACHINE = Machine(devices=4, period_s=1 / 6, chunk_s=0.045, max_load=0.6)  # two sessions on each
QUIET = Failures()


def run(machines: int, load: float, *, seconds: float, mean_s: float = 300.0, **more) -> tuple[int, Outcome]:
    demand = Demand(load=load, mean_s=mean_s, longest_s=20 * mean_s)
    given = {"failures": QUIET, "seed": 0, "warm_up_s": 4 * mean_s, "seconds": seconds} | more
    return simulate(machines, MACHINE, demand, given.pop("failures"), **given)


def erlang_c(servers: int, load: float) -> float:
    """Share of those who come at random and have to wait."""
    offered = load * servers
    blocked = 1.0  # Erlang's B, by its recursion
    for number in range(1, servers + 1):
        blocked = offered * blocked / (number + offered * blocked)
    return blocked / (1 - load * (1 - blocked))


@pytest.mark.parametrize("load", [0.6, 0.8])
def test_people_wait_as_long_as_erlang_says(load: float):
    """Sessions so short that nobody waits for as long as the queue lets them."""
    places, outcome = run(1, load, mean_s=20.0, seconds=15_000.0 / load)
    assert places == 8 and not outcome.gave_up and not outcome.refused
    waited = sum(wait > 0 for wait in outcome.waits_s) / len(outcome.waits_s)
    mean = erlang_c(8, load) * 20.0 / (8 * (1 - load))
    assert waited == pytest.approx(erlang_c(8, load), rel=0.15)
    assert outcome.summary(8)["wait_s_mean"] == pytest.approx(mean, rel=0.25)


def test_what_is_too_much_is_turned_away_and_no_place_stays_empty():
    places, outcome = run(2, 1.25, seconds=20_000.0)
    summary = outcome.summary(places)
    assert summary["used_share"] > 0.98
    assert summary["gave_up_share"] == pytest.approx(1 - 1 / 1.25, abs=0.05) and not outcome.refused
    assert max(outcome.waits_s) <= QUEUE_S + 1  # nobody is let in later


def test_whoever_comes_when_too_many_wait_is_refused_at_once():
    _, outcome = run(2, 1.25, seconds=20_000.0, limit=lambda places: 3)
    assert outcome.refused > 100 * outcome.gave_up and max(outcome.waiting) == 3


def test_sessions_of_machines_that_fail_are_lost_and_asked_for_again():
    failures = Failures(at_s=1_300.0, share=0.5, repair_s=60.0)
    places, outcome = run(4, 0.5, seconds=600.0, failures=failures)
    per_machine = places // 4
    assert 1 <= outcome.lost <= 2 * per_machine
    down = outcome.open[26:30]  # from 1,300 s on, of 1,200 s warm-up and a sample every 5 s
    assert max(down) <= places // 2 and max(outcome.open[60:]) <= places


def test_the_same_seed_gives_the_same_numbers():
    first, second = (run(1, 0.7, seconds=5_000.0)[1].summary(8) for _ in range(2))
    assert first == second and not math.isnan(first["wait_s_mean"])


def test_a_machine_without_a_place_is_refused():
    with pytest.raises(ValueError, match=r"chunk_s=0\.110 at most"):
        Machine(devices=1, period_s=1 / 6, chunk_s=0.11, max_load=0.6)
