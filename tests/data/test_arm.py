"""The arm is recorded as it moves, follows its actions, and can be solved."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from data.shards import decode_sample, read_samples
from data.worlds.__main__ import record_world
from data.worlds.arm import AWAY, FENCE, HAND, NEAR, PUCK, REACH, SPEED, TARGET, VIEW, Arm, joints_of, reward_of
from data.worlds.episodes import EpisodePlan, make_episode, record
from data.worlds.policies import coverage
from data.worlds.world import Guided, Tasked

pytest.importorskip("mujoco")
SIDE = 64
PLAN = EpisodePlan(key="0", seed=3, num_frames=48, env="arm", size=SIDE, policy="mixed", hold_s=0.4, warmup_s=1.0)


@pytest.fixture(scope="module")
def arm() -> Arm:
    return Arm(SIDE)


def pixel(place: np.ndarray) -> tuple[int, int]:
    """Row and column of a place on the table."""
    x, y = place
    return int((VIEW - y) / (2 * VIEW) * SIDE), int((x + VIEW) / (2 * VIEW) * SIDE)


def test_a_plan_gives_the_same_bytes_in_another_arm(arm: Arm):
    first, again = make_episode(PLAN, arm), make_episode(PLAN, Arm(SIDE))
    assert np.array_equal(first.frames, again.frames)
    assert all(np.array_equal(first.signals[name], again.signals[name]) for name in first.signals)


def test_who_plays_begins_with_the_target_whatever_was_played_before(arm: Arm):
    first = []
    for played in (Arm(SIDE), arm):
        rng = np.random.default_rng(0)
        for _ in range(0 if played is not arm else 100):
            played.step(played.guide(rng, np.zeros(2)))
        played.reset(seed=1)
        first.append(played.guide(np.random.default_rng(2), np.zeros(2)))
    np.testing.assert_array_equal(*first)


def test_shards_go_on_where_they_stopped(tmp_path: Path):
    settings: dict[str, Any] = {
        "env": "arm", "resolution": 32, "num_frames": 8, "train": 3, "val": 1, "test": 0, "seed": 0, "policy": "mixed",
        "hold_s": 0.4, "warmup_s": 0.5, "workers": 1,
    }  # fmt: skip
    record_world(out=str(tmp_path / "whole"), **settings)
    record_world(out=str(tmp_path / "part"), **settings)
    (tmp_path / "part" / "train-000000.tar").unlink()
    record_world(out=str(tmp_path / "part"), **settings)
    for name in ("train-000000.tar", "val-000000.tar", "condition.yaml", "coverage.json"):
        assert (tmp_path / "whole" / name).read_bytes() == (tmp_path / "part" / name).read_bytes()
    clips = [decode_sample(sample) for sample in read_samples(tmp_path / "whole", "train")]
    assert [clip.signals["state"].shape for clip in clips] == [(8, 4)] * 3


def test_the_hand_moves_in_the_frame_whose_action_it_is(arm: Arm):
    """Off by one is seen: the way of the hand in a step is that of the step's own action, and of no other one's."""
    clip = make_episode(replace(PLAN, policy="random"), arm)
    hand, action = clip.signals["state"][1::2, :2], clip.signals["action"][1::2]  # a step is two frames
    way = np.diff(hand, axis=0) * arm.rate / SPEED
    inside = (np.abs(hand[1:]) < 0.27).all(1)
    near = {shift: np.abs(way - np.roll(action, shift, axis=0)[1:])[inside].mean() for shift in (-1, 0, 1)}
    assert near[0] < 0.15 and near[0] < 0.5 * min(near[-1], near[1])


def test_the_picture_shows_hand_and_puck_where_the_state_says(arm: Arm):
    arm.place(np.array([-0.1, -0.2, 0.15, 0.05]))
    picture = arm.render().astype(int)
    assert picture[pixel(arm.state[:2])].max() < 60  # dark
    red, green, blue = picture[pixel(arm.state[2:])]
    assert red > 2 * max(green, blue)
    assert picture[pixel(TARGET)].argmax() == 1  # the target is green


def test_the_expert_solves_the_task_and_rest_does_not(arm: Arm):
    solved, rewards = [], []
    for seed in range(6):
        arm.reset(seed=seed)
        before = reward_of(arm.state) / arm.rate
        for _ in range(72):
            reward, over = arm.step(arm.expert(arm.state))
        solved.append(arm.solved(arm.state))
        rewards.append(reward > before)
        assert not over
        arm.reset(seed=seed)
        for _ in range(12):
            arm.step(np.zeros(2, np.float32))
        assert not arm.solved(arm.state)
    assert all(solved) and all(rewards)


def test_nothing_but_the_hand_moves_the_puck_and_the_fence_holds_it(arm: Arm):
    arm.place(np.array([-0.2, 0.0, 0.0, 0.0]))
    for _ in range(5):
        arm.step(np.array([1.0, 0.0], np.float32))
    assert np.linalg.norm(arm.state[2:]) < 1e-3  # not yet touched
    apart = []
    for _ in range(40):
        arm.step(np.array([1.0, 0.0], np.float32))
        apart.append(float(np.linalg.norm(arm.state[2:] - arm.state[:2])))
    assert FENCE - 0.01 < arm.state[2] < FENCE + 0.01
    assert min(apart) > 0.85 * (HAND + PUCK)  # not through it


def test_an_episode_begins_with_everything_apart(arm: Arm):
    for seed in range(40):
        arm.reset(seed=seed)
        hand, puck = arm.state[:2], arm.state[2:]
        assert np.linalg.norm(puck - TARGET) > AWAY - 1e-4 and np.linalg.norm(hand - puck) > AWAY - 1e-4


def test_a_reward_is_by_the_second_and_grows_with_both_distances(arm: Arm):
    """Closed forms: puck on the target and hand at the puck; and each of them a `NEAR` away."""

    def reward_at(hand: float, puck: float) -> float:
        """Both to the right of the target."""
        x, y = TARGET
        return reward_of(np.array([x + hand, y, x + puck, y]))

    touching = HAND + PUCK
    assert reward_at(touching, 0) == pytest.approx(1.25)
    assert reward_at(touching + NEAR, 0) == pytest.approx(1 + 0.25 / np.e)
    assert reward_at(touching + 2 * NEAR, NEAR) == pytest.approx(1.25 / np.e)
    arm.reset(seed=0)
    reward, _ = arm.step(np.zeros(2, np.float32))
    assert reward * arm.rate == pytest.approx(reward_of(arm.state))


def test_the_hand_stays_in_reach_and_no_faster_than_it_can(arm: Arm):
    corner, puck = np.array([0.2, -0.2]), np.array([-0.1, 0.1])
    ends = []
    for speed in (1.0, 9.0):
        arm.place(np.array([0.0, -0.2, *puck]))
        for _ in range(4):
            arm.step(np.array([speed, 0.0], np.float32))
        ends.append(arm.state[0])
    assert ends[0] == ends[1] > 0.05
    arm.place(np.concatenate([corner, puck]))
    for _ in range(24):
        arm.step(np.array([1.0, -1.0], np.float32))
    np.testing.assert_allclose(arm.state[:2], [REACH, -REACH], atol=5e-3)
    assert joints_of(np.array([0.0, -9.0]))[1] == 0  # out of reach: stretched


def test_a_hand_that_was_blocked_comes_back_at_once(arm: Arm):
    """However long it has pushed against what does not give way."""
    arm.place(np.array([0.05, 0.0, 0.15, 0.0]))
    for _ in range(8):
        arm.step(np.array([1.0, 0.0], np.float32))
    blocked = arm.state[0]
    for _ in range(3):
        arm.step(np.array([-1.0, 0.0], np.float32))
    assert blocked < FENCE - 0.8 * (HAND + PUCK) and arm.state[0] < blocked - SPEED / arm.rate


def test_the_expert_goes_around_the_puck_and_rests_when_it_is_there(arm: Arm):
    """From between puck and target, it does not push the puck away from the target."""
    puck = np.array([-0.1, 0.1])
    ahead = (TARGET - puck) / np.linalg.norm(TARGET - puck)
    arm.place(np.concatenate([puck + 0.09 * ahead, puck]))
    far = [float(np.linalg.norm(arm.state[2:] - TARGET))]
    for _ in range(72):
        arm.step(arm.expert(arm.state))
        far.append(float(np.linalg.norm(arm.state[2:] - TARGET)))
    assert max(far) < far[0] + 0.01 and arm.solved(arm.state)
    assert not arm.expert(np.array([0.2, 0.2, *TARGET])).any()


@pytest.mark.parametrize("hand", [(0.0, -0.25), (0.05, 0.0)])
def test_hidden_is_what_cannot_be_seen(arm: Arm, hand: tuple[float, float]):
    """By the nine pixels around its middle: an oracle for all but what is half covered."""
    covered_by_y: list[float] = []
    steps = np.linspace(-FENCE, FENCE, 21)
    for place in (np.array([x, y]) for x in steps for y in steps):
        if np.linalg.norm(place - hand) > HAND + PUCK:
            arm.place(np.concatenate([hand, place]))
            row, column = pixel(place)
            middle = arm.render()[row - 1 : row + 2, column - 1 : column + 2].astype(int)
            red = int(((middle[..., 0] > 120) & (middle[..., 1] < 70)).sum())
            if red <= 1 or red >= 7:
                assert arm.hidden(arm.state) == (red <= 1), place
            covered_by_y += [place[1]] if red <= 1 else []
    assert min(covered_by_y) < 0.05 and max(covered_by_y) > 0.1  # by the forearm, and by the upper arm


def test_every_direction_is_recorded(arm: Arm):
    assert isinstance(arm, Guided) and isinstance(arm, Tasked)
    clips = []
    for seed in range(6):
        clips.append(make_episode(replace(PLAN, seed=seed), arm).signals["action"])
    found = coverage(arm.names, arm.kinds, clips)
    assert found.missing(0.9) == [] and found.held_frames > 2


def test_a_clip_is_an_encoded_sample():
    assert {"action.npy", "reward.npy", "state.npy", "reference.png"} <= set(record(PLAN))
