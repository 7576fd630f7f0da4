"""A model of a robot is judged by how it ranks policies: the world itself ranks them rightly, a deaf one does not."""

import json
import warnings
from functools import partial
from pathlib import Path
from types import MappingProxyType, SimpleNamespace
from typing import Any

import numpy as np
import pytest
from hydra.errors import InstantiationException
from hydra.utils import instantiate
from scipy.stats import spearmanr

from evaluate.worlds.hidden import anybody, cases, expert, judged, was_hidden, was_pushed
from evaluate.worlds.ranks import mmrv, ranks, spearman
from evaluate.worlds.robot import RobotSuite, numbers, reader
from evaluate.worlds.skills import Acting, Actual, Deaf, Simulated, Skill, Step, rollout
from gwm.outcome import FOLDER
from tests.maze import maze_artifact, maze_shards
from tests.test_configs import composed
from train.outcome import train_outcome

FRAMES, STEP_S = 4, 1 / 6


class Rail:
    """A hand on a rail pushes a box to the right, up to the end; the picture is as bright as the box is far."""

    names, kinds, rate, most_pressed = ("x",), ("continuous",), 12.0, 0
    parts = MappingProxyType({"hand": slice(0, 2), "box": slice(2, 4)})

    def __init__(self) -> None:
        self.reset(seed=0)

    def reset(self, *, seed: int) -> None:
        self.hand, self.box = 0.0, 0.1 + (seed % 7) / 50

    def step(self, numbers: np.ndarray) -> tuple[float, bool]:
        self.hand += 0.04 * float(numbers[0])
        self.box = min(1.0, max(self.box, self.hand))
        return self.box / self.rate, False

    def render(self) -> np.ndarray:
        return np.full((8, 8, 3), round(255 * self.box), np.uint8)

    @property
    def state(self) -> np.ndarray:
        return np.array([self.hand, 0, self.box, 0], np.float32)

    def expert(self, state: np.ndarray) -> np.ndarray:
        return np.ones(1, np.float32)

    def solved(self, state: np.ndarray) -> bool:
        return bool(state[2] > 0.8)

    def hidden(self, state: np.ndarray) -> bool:
        return bool(-0.4 < state[0] < -0.2)


class Still(Actual):
    """Nothing ever moves in it."""

    def step(self, numbers: np.ndarray) -> Step:
        return super().step(np.zeros_like(numbers))


SKILLS = [Skill(name=f"gain {gain}", gain=gain) for gain in (1.0, 0.6, 0.3, 0.0)]


def played(arena: Any, skills: list[Skill] = SKILLS, starts: int = 6) -> dict[str, list[Any]]:
    return {
        skill.name: [
            rollout(arena, Acting(skill, arena.world, step_s=STEP_S, seed=k), start=k, steps=18) for k in range(starts)
        ]
        for skill in skills
    }


def test_the_maximum_rank_violation_is_that_of_the_worst_pair():
    """By hand: the model exchanges the policies that differ by 0.3 in the world."""
    real = np.array([0.9, 0.6, 0.1])
    assert mmrv(real, real) == 0
    assert mmrv(np.array([0.5, 0.8, 0.1]), real) == pytest.approx((0.3 + 0.3 + 0) / 3)
    assert mmrv(-real, real) == pytest.approx((0.8 + 0.5 + 0.8) / 3)


def test_rank_correlation_knows_order_alone_and_resamples_starts():
    rng = np.random.default_rng(0)
    skill = np.arange(8.0)
    real = skill[:, None] + rng.normal(0, 0.1, (8, 10))
    assert spearman(np.exp(skill), skill) == pytest.approx(1) and spearman(-skill, skill) == pytest.approx(-1)
    assert np.isnan(spearman(np.ones(8), skill))
    good, wild = ranks(np.exp(real), real), ranks(rng.normal(0, 1, (8, 10)), real)
    assert good.spearman == 1 and good.low > 0.9
    assert wild.high - wild.low > 0.3 and wild.spearman < 0.8


def test_ties_count_by_their_mean_rank():
    model, real = np.array([1.0, 2, 2, 3, 0]), np.array([2.0, 2, 4, 4, 1])
    assert spearman(model, real) == pytest.approx(float(np.asarray(spearmanr(model, real))[0]))
    assert ranks(2 * model[:, None], model[:, None]).pearson == pytest.approx(1)
    assert ranks(np.exp(3 * model[:, None]), model[:, None]).pearson < 0.9


@pytest.mark.parametrize(("worse", "low"), [(3.0, -1), (1.857, 1)])
def test_an_interval_holds_95_of_100_resamples(worse: float, low: int):
    """One policy is better by 1 from nine starts, and worse from the tenth. By the binomial distribution, the tenth is
    drawn as often as turns the ranks in 7.0 % of resamples where three times are enough, in 1.3 % where it takes four.
    """
    better = np.ones((2, 10)) * [[1], [0]]
    better[1, 9] = 1 + worse
    real = np.array([[1.0], [0.0]]) * np.ones((2, 10))
    found = ranks(better, real)
    assert (found.spearman, found.low, found.high) == pytest.approx((1, low, 1))


def test_starts_are_resampled_on_both_sides_together():
    scores = np.random.default_rng(1).normal(0, 1, (8, 6))
    assert ranks(scores, scores).low == pytest.approx(1)


def test_scores_that_are_all_alike_have_no_rank():
    """Neither of all starts nor of some that are drawn, which are then left out of the interval; without a warning."""
    real = np.arange(3.0)[:, None] * np.ones((3, 4))
    once = np.zeros((3, 4))
    once[:, 0] = [0, 1, 2]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        alike, rare = ranks(np.ones((3, 4)), real), ranks(once, real)
    assert np.isnan([alike.spearman, alike.low, alike.high, alike.pearson]).all() and alike.mmrv == 1
    assert (rare.low, rare.high) == (pytest.approx(1), pytest.approx(1))


def test_the_world_in_the_models_place_ranks_as_it_does_and_a_still_one_does_not():
    real = played(Actual(Rail(), FRAMES))
    report = numbers({"real": real, "seen": real, "model": real, "deaf": played(Still(Rail(), FRAMES))}, SKILLS)
    assert report["model"]["rank_return"] == pytest.approx(1) and report["model"]["mmrv_success"] == 0
    assert np.isnan(report["floor"]["rank_return"]) and report["floor"]["mmrv_return"] > 0.1
    returns = [report["policies"][skill.name]["real"]["return"] for skill in SKILLS]
    assert returns == sorted(returns, reverse=True)
    read = reader(real, Rail())  # type: ignore[arg-type]
    assert read["success_agrees"] == 1 and read["box_mm"]["p95"] == 0


def test_skills_are_what_they_are_called():
    world: Any = Rail()
    world.reset(seed=0)
    state = world.state

    def acts(**changes: Any) -> list[float]:
        policy = Acting(Skill(name="one", **changes), world, step_s=STEP_S, seed=0)
        return [float(policy(None if k == 0 else state + k)[0]) for k in range(6)]

    assert acts() == [0, 1, 1, 1, 1, 1]  # at rest before anything was seen
    assert acts(gain=0.5) == [0, 0.5, 0.5, 0.5, 0.5, 0.5]
    assert acts(stops_s=0.5) == [0, 1, 1, 0, 0, 0]
    assert len(set(acts(noise=0.3, gain=0.0))) > 3
    assert {abs(number) for number in acts(noise=99.0)} <= {0, 1}  # and no more than can be done
    late = Acting(Skill(name="late", late_s=0.5, shift_m=0.1), world, step_s=STEP_S, seed=0)
    seen: list[np.ndarray] = []
    world.expert = lambda state: seen.append(state) or np.ones(1)
    for k in range(6):
        late(state + k)
    assert [round(float(one[0] - state[0]), 2) for one in seen] == [0.1, 0.1, 0.1, 0.1, 1.1, 2.1]


def test_a_model_begins_at_the_worlds_picture_and_a_deaf_one_is_given_rest():
    world: Any = Rail()
    begins, given = list[np.ndarray](), list[float]()

    def step(numbers: np.ndarray) -> tuple[Any, ...]:
        given.append(float(numbers[0]))
        return None, 0.5, False, False, {"state": world.state, "frames": np.zeros((FRAMES, 8, 8, 3), np.uint8)}

    env = SimpleNamespace(reset=lambda *, seed, options: begins.append(options["image"]), step=step)
    for arena in (Simulated(world, env), Deaf(world, env)):
        arena.start(5)
        assert arena.step(np.ones(1)).reward == 0.5
    assert given == [1, 0]
    world.reset(seed=5)
    assert all(np.array_equal(image, world.render()) for image in begins) and begins[0].max() > 0


def test_what_is_pushed_moves_and_what_is_hidden_lies_still_and_is_seen_at_both_ends():
    world: Any = Rail()

    def states(hand: list[float], box: list[float]) -> np.ndarray:
        return np.array([[x, 0, y, 0] for x, y in zip(hand, box, strict=True)])

    away = [0, 0, -0.3, -0.3, 0, 0]  # hidden for two steps
    assert was_hidden(world, states(away, [0.1] * 6), step_s=0.2)
    assert not was_hidden(world, states(away, [0.1] * 6), step_s=0.1)  # too short
    assert not was_hidden(world, states(away, [0.1] * 5 + [0.2]), step_s=0.2)
    assert not was_hidden(world, states([0, -0.3, -0.3, 0, 0, 0], [0.1] * 6), step_s=0.2)
    assert not was_hidden(world, states([0, 0, 0, -0.3, -0.3, 0], [0.1] * 6), step_s=0.2)
    assert was_pushed(world, states([0, 0], [0.1, 0.16])) and not was_pushed(world, states([0, 0], [0.1, 0.14]))


def test_cases_are_those_that_show_what_they_are_called():
    world: Any = Rail()
    pushes = cases("contact", world, FRAMES, 12, 2, 0, expert, was_pushed)
    assert len(pushes) == 2
    covers = cases("hidden", world, FRAMES, 24, 1, 0, anybody, partial(was_hidden, step_s=STEP_S))
    assert len(covers) == 1
    states = []
    arena = Actual(world, FRAMES)
    arena.start(covers[0][0])
    for action in covers[0][1]:
        states.append(arena.step(action).state)
    hidden = [world.hidden(state) for state in states]
    assert any(hidden) and not hidden[-1] and np.ptp([state[2] for state in states]) < 0.005
    found = judged(pushes, world, Actual(world, FRAMES), Still(world, FRAMES)).numbers  # type: ignore[arg-type]
    assert found["seen_mm"] == 0 and found["model_mm"] == found["unmoved_mm"] > 50
    assert (found["seen_kept"], found["model_kept"]) == (1, 0)


@pytest.fixture(scope="module")
def shards(tmp_path_factory: pytest.TempPathFactory) -> Path:
    pytest.importorskip("mujoco")
    return maze_shards(tmp_path_factory.mktemp("arm") / "shards", env="arm")


@pytest.fixture(scope="module")
def artifact(shards: Path) -> Path:
    pytest.importorskip("gymnasium")
    made = maze_artifact(shards.parent, names=("right", "up"), kind="continuous")
    train_outcome(made, shards, made / FOLDER, clips=4, steps=2, batch_size=8, seed=0)
    return made


def suite(*overrides: str) -> RobotSuite:
    small = ["world.starts=4", "world.seconds=1", "world.cases=1", "world.case_s=1", "shown=1"]
    cfg = composed("evaluate", ["artifact=a", "shards=s", "suite=robot", *small, *overrides])
    return instantiate(cfg.world, _convert_="all")


def test_the_suite_writes_a_report_and_goes_on_where_it_was_stopped(
    artifact: Path, shards: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    suite()(artifact, shards, tmp_path)
    report = json.loads((tmp_path / "report.json").read_text())
    assert len(report["policies"]) == 12 and set(report["ranks"]) == {"seen", "model", "deaf", "halves"}
    assert report["policies"]["rests"]["real"]["success"] == 0
    assert report["cases"]["contact"]["cases"] == 1 and report["reader"]["episodes"] == 48
    page = (tmp_path / "report.html").read_text()
    assert "Ranks of the policies" in page and "Cases: hidden" in page
    assert (tmp_path / "samples" / "expert.png").is_file() and (tmp_path / "samples" / "contact.png").is_file()
    monkeypatch.setattr("evaluate.worlds.robot.rollout", None)  # nothing is played again
    suite()(artifact, shards, tmp_path)
    again = json.loads((tmp_path / "report.json").read_text())
    assert {k: v for k, v in again.items() if k != "machine"} == {k: v for k, v in report.items() if k != "machine"}
    train_outcome(artifact, shards, artifact / FOLDER, clips=4, steps=2, batch_size=8, seed=1)
    with pytest.raises(TypeError):  # what another head read is no longer of use
        suite()(artifact, shards, tmp_path)


def test_what_cannot_be_ranked_is_refused(artifact: Path, shards: Path, tmp_path: Path):
    with pytest.raises(InstantiationException, match="starts=2 must be at least 4"):
        suite("world.starts=2")
    with pytest.raises(InstantiationException, match="must be at least three policies"):
        suite("world.skills=[{_target_: evaluate.worlds.skills.Skill, name: one}]")
    maze = maze_shards(tmp_path / "maze")
    with pytest.raises(ValueError, match="have the actions"):
        suite()(artifact, maze, tmp_path / "out")
    walker = maze_artifact(tmp_path)
    with pytest.raises(ValueError, match="must be of a world with a task"):
        suite()(walker, maze, tmp_path / "out")
    assert not (tmp_path / "out" / "report.json").exists()
