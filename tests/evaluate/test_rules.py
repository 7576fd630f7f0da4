"""The gates of a character against what was measured."""

from typing import Any

import numpy as np
import pytest
from hydra import compose, initialize
from hydra.utils import instantiate

from evaluate.examine import Result
from evaluate.rules import Gate, summary, verdicts
from evaluate.summary import numbers

FRAMES = np.zeros((2, 4, 4, 3), np.uint8)


def report(models: list[dict[str, float]], render: dict[str, float], long: dict[str, float]) -> dict[str, Any]:
    nothing = {"model": {}, "renders": {}}
    sides = [{"model": model, "renders": render} for model in models]
    facts = {"style": "anny", "curves": nothing, "features": nothing, "frames": FRAMES}
    results = [Result(key=str(k), person=str(k), rows=rows, **facts) for k, rows in enumerate(sides)]
    return {**numbers(results), "long": long, "floor": {"identity": 0.5}}


def test_shipped_gates_are_the_issues():
    """The numbers of the issue; nothing else in the repository repeats them."""
    with initialize(version_base="1.3", config_path="../../configs"):
        cfg = compose("evaluate", overrides=["artifact=a", "shards=s"])
    gates: list[Gate] = instantiate(cfg.gates, _convert_="all")
    assert {gate.measure: gate.rule for gate in gates if gate.rule} == {
        "lip_sync": ">= 0.9 of the way to the ceiling",
        "lag_frames": ">= -1 and <= 1",
        "opening": ">= 0.8 and <= 1.2 of the way to the ceiling",
        "identity": ">= 0.95 of the way to the ceiling",
        "false_mouth": "<= 0.03",
        "border_flicker": "<= 1.1",
        "blinks_per_minute": ">= 0.7 and <= 1.3 of the way to the ceiling",
        "head_motion": ">= 0.7 and <= 1.3 of the way to the ceiling",
        "identity_drift": ">= -0.05 and <= 0.05",
        "motion_drift": ">= -0.05 and <= 0.05",
        "saturation_drift": ">= -0.05 and <= 0.05",
        "photograph_lips": ">= 0.85",
        "photograph_identity": ">= 0.8 of the way to the ceiling",
        "drawn_mouth": ">= 0.7",
        "user_response_shuffled": "not distinguished from 0",
    }


def test_a_share_is_of_the_renders():
    found = report([{"lip_sync": 0.8}], {"lip_sync": 0.85}, {})
    high, low = verdicts([Gate(measure="lip_sync", of="share", minimum=limit) for limit in (0.95, 0.90)], found)
    assert (high.number, high.ceiling, high.share) == (0.8, 0.85, pytest.approx(0.8 / 0.85))
    assert (high.reached, low.reached) == (False, True)


def test_an_identity_is_the_share_between_a_stranger_and_the_same_person():
    """0.7 of 0.9 looks near; half of the way from 0.5, which any other person has, it is not."""
    found = report([{"identity": 0.7}], {"identity": 0.9}, {})
    (verdict,) = verdicts([Gate(measure="identity", of="share", minimum=0.6)], found)
    assert (verdict.floor, verdict.share, verdict.reached) == (0.5, pytest.approx(0.5), False)


def test_one_lag_that_was_misread_does_not_decide():
    found = report([{"lag_frames": lag} for lag in (2.0, -5.0, 2.0)], {"lag_frames": 0.0}, {})
    (verdict,) = verdicts([Gate(measure="lag_frames", of="median", minimum=-1.0, maximum=1.0)], found)
    assert (verdict.number, verdict.ceiling, verdict.reached) == (2.0, 0.0, False)


def test_streams_have_no_ceiling():
    found = report([{}], {}, {"saturation_drift": 0.06, "identity_drift": 0.2})
    gates = [
        Gate(measure="saturation_drift", minimum=-0.05, maximum=0.05),
        Gate(measure="identity_drift", minimum=-0.05),
    ]
    assert [(v.number, v.ceiling, v.reached) for v in verdicts(gates, found)] == [
        (0.06, None, False),
        (0.2, None, True),
    ]


@pytest.mark.parametrize(("shift", "reached"), [(0.0, True), (0.5, False)])
def test_chance_is_an_interval_that_holds_zero(shift, reached):
    rng = np.random.default_rng(0)
    found = report([{"user_response_shuffled": shift + value} for value in rng.normal(0, 0.3, 12)], {}, {})
    (verdict,) = verdicts([Gate(measure="user_response_shuffled", of="chance")], found)
    assert verdict.reached is reached
    few = report([{"user_response_shuffled": shift}], {}, {})
    assert verdicts([Gate(measure="user_response_shuffled", of="chance")], few)[0].reached is None


def test_the_line_says_what_is_missed_and_what_was_not_measured():
    found = report([{"lip_sync": 0.4, "false_mouth": 0.01, "blinks_per_minute": 9.0}], {"lip_sync": 0.8}, {})
    gates = [
        Gate(measure="lip_sync", of="share", minimum=0.9),
        Gate(measure="false_mouth", maximum=0.05),
        Gate(measure="identity_drift", minimum=-0.05),
        Gate(measure="blinks_per_minute"),
    ]
    assert summary(verdicts(gates, found)) == (
        "1 of 2 gates reached; missed: lip_sync=0.4 (0.50 of the way to the ceiling), must be >= 0.9 of the way to "
        "the ceiling; "
        "not measured: identity_drift"
    )
