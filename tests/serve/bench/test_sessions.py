"""Sessions that share an engine: the bench's cases, and what the page says of them."""

import json
from pathlib import Path

import pytest

from serve.bench.sessions import COLUMNS, Case, capacity, cases, real, rows_of, simulated
from serve.scheduler import POLICIES
from tests.test_configs import composed

FOUND = json.loads((Path(__file__).parents[3] / "docs" / "experiments" / "sessions.json").read_text())
CFG = dict(composed("bench_sessions", []))


def share(case: Case, policy: str) -> float:
    found = simulated(case, policy, seconds=20.0, seed=0)["in_time"]
    assert found is not None
    return found


def test_a_case_is_judged_by_the_sessions_that_are_alike():
    slow = Case(name="one is slow", sessions=6, chunk_ms=18.0, slow_ms=70.0)
    found = simulated(slow, "least_slack", seconds=20.0, seed=0)
    assert found["in_time"] is not None and found["in_time"] >= found["worst_in_time"] > 0.99
    assert found["odd_in_time"] is not None and found["odd_in_time"] < 0.5
    assert slow.load == pytest.approx((6 * 18 + 70) * 6 / 1000)


def test_too_many_are_late_and_least_slack_keeps_most_in_time():
    case = Case(name="too many", sessions=8, chunk_ms=25.0)
    shares = {policy: share(case, policy) for policy in POLICIES}
    assert shares["least_slack"] > 1.2 * max(shares["first_come"], shares["round_robin"])


def test_a_hostile_session_floods_and_the_others_are_in_time():
    assert share(Case(name="one is hostile", sessions=6, chunk_ms=18.0, hostile=True), "least_slack") == 1.0


@pytest.mark.slow
def test_with_a_process_the_same_is_measured_in_real_time():
    found = real(Case(name="alike", sessions=2, chunk_ms=1.0), "least_slack", seconds=1.0, seed=0)
    assert found["in_time"] is not None and found["in_time"] > 0
    assert capacity(CFG["chunk_ms"], CFG["max_load"]) == 8


def test_what_is_committed_is_what_the_settings_ask_for():
    assert [row["name"] for row in FOUND["cases"]] == [case.name for case in cases(CFG)]
    assert FOUND["capacity"] == 8 and FOUND["settings"]["chunk_ms"] == CFG["chunk_ms"]
    assert rows_of(FOUND)[0] == COLUMNS and len(rows_of(FOUND)) == 1 + len(FOUND["cases"])
