"""The arm is recorded as it moves, does as it is told, and can be solved."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from data.shards import decode_sample, read_samples
from data.worlds.__main__ import record_world
from data.worlds.arm import FENCE, HAND, PUCK, SPEED, TARGET, VIEW, Arm, reward_of
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
    clip = make_episode(EpisodePlan(**{n: getattr(PLAN, n) for n in PLAN.__slots__} | {"policy": "random"}), arm)
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


def test_hidden_is_what_cannot_be_seen(arm: Arm):
    """Where the forearm lies over the puck, less of its red is in the picture."""
    places = np.linspace(-FENCE, FENCE, 41)
    hidden, red = zip(*(_shown(arm, place) for place in places), strict=True)
    assert any(hidden) and not all(hidden)
    assert max(np.array(red)[np.array(hidden)]) < 0.65 * max(red)


def _shown(arm: Arm, x: float) -> tuple[bool, int]:
    """Whether a puck at x is hidden, and the red pixels of the picture."""
    arm.place(np.array([0.0, -0.25, x, -0.05]))
    picture = arm.render().astype(int)
    return arm.hidden(arm.state), int(((picture[..., 0] > 120) & (picture[..., 1] < 70)).sum())


def test_every_direction_is_recorded(arm: Arm):
    assert isinstance(arm, Guided) and isinstance(arm, Tasked)
    clips = []
    for seed in range(6):
        plan = EpisodePlan(**{name: getattr(PLAN, name) for name in PLAN.__slots__} | {"seed": seed})
        clips.append(make_episode(plan, arm).signals["action"])
    found = coverage(arm.names, arm.kinds, clips)
    assert found.missing(0.9) == [] and found.held_frames > 2


def test_a_clip_is_an_encoded_sample():
    assert {"action.npy", "reward.npy", "state.npy", "reference.png"} <= set(record(PLAN))
