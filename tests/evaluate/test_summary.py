"""Numbers over clips, and what may be said of a difference."""

from typing import Any

import numpy as np
import pytest

from evaluate.examine import Result
from evaluate.summary import compare, frechet_floors, frechets, intervals
from gwm.metrics.frechet import frechet

FRAMES = np.zeros((2, 4, 4, 3), np.uint8)


def result(
    key: str, model: dict[str, float], renders: dict[str, float], features: Any = None, person: str = ""
) -> Result:
    nothing = {"model": {}, "renders": {}}
    facts = {"key": key, "style": "anny", "person": person or key, "rows": {"model": model, "renders": renders}}
    return Result(**facts, curves=nothing, features=features or nothing, frames=FRAMES)


def results(values: list[float], *, metric: str = "psnr", render: float = 50.0) -> list[Result]:
    return [result(str(k), {metric: value}, {metric: render}) for k, value in enumerate(values)]


def test_clips_without_a_metric_do_not_count():
    got = intervals([result("a", {"lip_sync": 0.5}, {"lip_sync": 0.9}), result("b", {"psnr": 30.0}, {"psnr": 50.0})])
    assert (got["model"]["lip_sync"].mean, got["model"]["lip_sync"].count) == (0.5, 1)
    assert "identity" not in got["model"]


def test_pairs_tell_a_difference_that_the_spread_of_clips_would_hide():
    """Clips differ by 10 dB, the models by 0.5 dB on each of them."""
    rng = np.random.default_rng(0)
    base = rng.normal(30, 10, 12)
    (row,) = compare(results((base + 0.5 + rng.normal(0, 0.1, 12)).tolist()), results(base.tolist()))
    assert row.verdict == "better"
    assert row.low < 0.5 < row.high < 0.7
    (row,) = compare(results(base.tolist()), results(base.tolist()))
    assert row.verdict == "undecided"


@pytest.mark.parametrize(
    ("metric", "model", "verdict"),
    [
        ("psnr", 31.0, "better"),
        ("perceptual", 31.0, "worse"),
        ("motion", 31.0, "worse"),
        ("motion", 29.0, "better"),
        ("lag_frames", -29.0, "better"),
    ],
)
def test_verdict_knows_what_is_better(metric, model, verdict):
    """Of motion the render's own value, 25 here, is best; of the others more, or less, than the baseline's 30."""
    (row,) = compare(results([model] * 6, metric=metric, render=25.0), results([30.0] * 6, metric=metric, render=25.0))
    assert row.verdict == verdict


def test_few_clips_tell_nothing():
    (row,) = compare(results([31.0] * 4), results([30.0] * 4))
    assert row.verdict == "undecided"


def test_other_clips_are_refused():
    with pytest.raises(ValueError, match="must be the model's"):
        compare(results([1.0, 2.0]), results([1.0]))


def test_frechet_distances_need_the_backbone():
    rng = np.random.default_rng(0)
    part = {"picture": rng.normal(size=(16, 4)), "motion": rng.normal(size=(16, 4))}
    same = result("a", {}, {}, {"model": part, "renders": part})
    assert frechets([same]) == pytest.approx({"frechet_alexnet": 0, "frechet_motion_alexnet": 0}, abs=1e-6)
    assert frechets(results([1.0])) == {}


def test_the_floor_of_a_frechet_distance_is_that_of_two_halves_of_the_people():
    """No person is in both halves: two clips of one person are nearer than two people."""
    rng = np.random.default_rng(0)
    clips = []
    for number in range(8):
        part = {"picture": rng.normal(size=(4, 4)), "motion": rng.normal(size=(4, 4))}
        clips.append(result(str(number), {}, {}, {"model": part, "renders": part}, person=str(number // 2)))
    halves = [[c.features["renders"]["picture"] for c in clips if int(c.person) % 2 == half] for half in (0, 1)]
    expected = frechet(*(np.concatenate(half) for half in halves))
    assert frechet_floors(clips)["frechet_alexnet"] == pytest.approx(expected)
    assert expected > 0.1
    assert frechet_floors(clips[:2]) == {}  # one person
