"""A robot arm that pushes a puck onto a target, seen from above: MuJoCo, primitive shapes, a `World` without Gymnasium.

What the arm hides and what it touches is seen in a picture of 64 px, in which a pixel is a centimetre.
"""

import logging
import os
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

import numpy as np
from jaxtyping import Float, UInt8

from data.synthetic import derive_seed
from gwm.condition.spec import Kind
from gwm.optional import optional_module

os.environ.setdefault("MUJOCO_GL", "egl")  # drawn without a screen; MuJoCo reads it when it is imported

NAMES = ("right", "up")  # speed of the hand in the picture, as a share of the highest
SPEED = 0.3  # highest speed of the hand, m/s
BASE, LINK = np.array([0.0, 0.42]), 0.4  # shoulder, outside the picture; length of each of the two links, m
VIEW = 0.32  # half the width of what is seen, m
REACH = 0.28  # the hand stays in a square of twice this width, m
FENCE = 0.2  # the puck's middle stays in this one: the hand fits behind it everywhere, m
AHEAD = 0.02  # by which the place where the hand should be is ahead of it at most, along each axis, m
HAND, PUCK = 0.025, 0.045  # radii, m
TARGET = np.array([0.1, -0.06])  # m
SOLVED = 0.05  # distance of the puck's middle from the target, up to which it lies on it, m
NEAR = 0.1  # distance by which a reward falls to 1/e, m
HAND_SHARE = 0.25  # reward for the hand at the puck, against that for the puck at the target
HIDES = 0.015  # distance of the puck's middle from the middle of a link, below which the link lies over it, m
SUBSTEPS = 20  # of the simulation in a step
AWAY = 0.14  # of a puck from the target, and of a hand from the puck, at the start, m

Point = Float[np.ndarray, "2"]

SCENE = f"""
<mujoco>
  <option timestep="{1 / (12 * SUBSTEPS)}" integrator="implicitfast" gravity="0 0 0"/>
  <visual>
    <quality shadowsize="0" offsamples="4"/>
    <headlight ambient=".7 .7 .7" diffuse=".3 .3 .3" specular="0 0 0"/>
    <global offwidth="256" offheight="256"/>
  </visual>
  <default>
    <geom contype="0" conaffinity="0"/>
    <default class="touching"><geom contype="1" conaffinity="1"/></default>
    <default class="sliding">
      <joint type="slide" range="{-FENCE} {FENCE}" limited="true" damping="1" frictionloss=".3"/>
    </default>
  </default>
  <worldbody>
    <camera name="above" pos="0 0 2" projection="orthographic" fovy="{2 * VIEW}"/>
    <geom type="plane" size="1 1 .1" rgba=".82 .8 .76 1"/>
    <geom type="cylinder" size=".06 .001" pos="{TARGET[0]} {TARGET[1]} .001" rgba=".2 .65 .3 1"/>
    <body name="puck" pos="0 0 .03">
      <joint name="puck_x" class="sliding" axis="1 0 0"/>
      <joint name="puck_y" class="sliding" axis="0 1 0"/>
      <geom class="touching" type="cylinder" size="{PUCK} .03" rgba=".85 .15 .12 1" mass=".2"/>
    </body>
    <body pos="{BASE[0]} {BASE[1]} .12">
      <joint name="shoulder" axis="0 0 1" damping=".5" armature=".02"/>
      <geom type="capsule" fromto="0 0 0 {LINK} 0 0" size=".02" rgba=".25 .4 .75 1" mass=".3"/>
      <body pos="{LINK} 0 0">
        <joint name="elbow" axis="0 0 1" damping=".5" armature=".02"/>
        <geom type="capsule" fromto="0 0 0 {LINK} 0 0" size=".016" rgba=".4 .6 .9 1" mass=".2"/>
        <body name="hand" pos="{LINK} 0 0">
          <geom class="touching" type="cylinder" size="{HAND} .06" pos="0 0 -.045" rgba=".1 .1 .12 1" mass=".1"/>
          <geom type="cylinder" size="{HAND} .005" pos="0 0 .02" rgba=".1 .1 .12 1" mass=".01"/>
        </body>
      </body>
    </body>
  </worldbody>
  <actuator>
    <position joint="shoulder" kp="120" dampratio="1"/>
    <position joint="elbow" kp="120" dampratio="1"/>
  </actuator>
</mujoco>
"""


def joints_of(hand: Point) -> Point:
    """Angles of shoulder and elbow, in radians, with which the hand is at a place."""
    away = hand - BASE
    bend = np.arccos(np.clip((away @ away) / (2 * LINK**2) - 1, -1, 1))
    return np.array([np.arctan2(away[1], away[0]) - bend / 2, bend])


def reward_of(state: Float[np.ndarray, "4"]) -> float:
    """Of a second that is spent in a state: at most 1.25."""
    hand, puck = state[:2], state[2:]
    at_target, at_puck = np.linalg.norm(puck - TARGET), max(0.0, float(np.linalg.norm(hand - puck)) - HAND - PUCK)
    return float(np.exp(-at_target / NEAR) + HAND_SHARE * np.exp(-at_puck / NEAR))


def push(state: Float[np.ndarray, "4"], goal: Point) -> Float[np.ndarray, "2"]:
    """The action of somebody who sees the state and pushes the puck to a goal: around it, until the hand is behind it
    as seen from the goal, then ahead; still when the puck is there."""
    hand, puck = state[:2].astype(float), state[2:].astype(float)
    left = goal - puck
    far = float(np.linalg.norm(left))
    if far < SOLVED / 2:
        return np.zeros(2, np.float32)
    ahead = left / far
    from_puck = hand - puck
    along, across = float(from_puck @ ahead), from_puck - (from_puck @ ahead) * ahead
    touching = HAND + PUCK
    if along < 0 and np.linalg.norm(across) < 0.35 * touching:  # behind: push, and keep to the line
        wish = ahead * min(1.0, far / 0.06) - across / 0.03
    else:
        behind = puck - ahead * (touching + 0.02)
        wish = (behind - hand) / 0.05
        near = float(np.linalg.norm(from_puck))
        outward = from_puck / max(near, 1e-6)
        if near < touching + 0.03 and wish @ outward < 0:  # not through the puck, but along its rim
            rim = np.array([-outward[1], outward[0]])
            side = 1.0 if rim @ (behind - hand) >= 0 else -1.0
            wish = side * rim + outward * (touching + 0.025 - near) / 0.02
    return (wish / max(1.0, float(np.abs(wish).max()))).astype(np.float32)


class Arm:
    """`step` takes the speed of the hand to the right and upwards in the picture, each in [-1, 1].

    The reward grows the nearer the puck is to the target and the hand to the puck (`reward_of`); no episode ends by
    itself, so that what happens on the target is recorded too.
    """

    names: tuple[str, ...] = NAMES
    kinds: tuple[Kind, ...] = ("continuous",) * len(NAMES)
    rate = 12.0  # steps a second
    most_pressed = 0
    parts: Mapping[str, slice] = MappingProxyType({"hand": slice(0, 2), "puck": slice(2, 4)})  # of the state

    def __init__(self, size: int) -> None:
        """size: px along a side.

        Raises:
            MissingPackageError: MuJoCo is not installed.
        """
        logging.getLogger("OpenGL").setLevel(logging.WARNING)  # it says which of its parts are not compiled
        self._mujoco: Any = optional_module("mujoco", "pip install mujoco")
        self._model = self._mujoco.MjModel.from_xml_string(SCENE)
        self._data = self._mujoco.MjData(self._model)
        self._renderer = self._mujoco.Renderer(self._model, size, size)
        self._wish, self._goal = np.zeros(2), TARGET

    def reset(self, *, seed: int) -> None:
        """Hand and puck somewhere, apart from one another, the puck apart from the target."""
        rng = np.random.default_rng(derive_seed("start", seed))
        puck = _apart(rng, FENCE, TARGET)
        hand = _apart(rng, 0.9 * REACH, puck)
        self.place(np.concatenate([hand, puck]))
        self._goal = TARGET

    def place(self, state: Float[np.ndarray, "4"]) -> None:
        """Put hand and puck at rest where a state says."""
        self._mujoco.mj_resetData(self._model, self._data)
        self._wish = np.array(state[:2], float)
        self._data.qpos[:] = [*state[2:], *joints_of(self._wish)]
        self._data.ctrl[:] = joints_of(self._wish)
        self._mujoco.mj_forward(self._model, self._data)

    @property
    def state(self) -> Float[np.ndarray, "4"]:
        """x and y of the hand, then of the puck, in metres from the middle of the picture; y grows upwards."""
        return np.array([*self._data.body("hand").xpos[:2], *self._data.body("puck").xpos[:2]], np.float32)

    def step(self, numbers: Float[np.ndarray, " k"]) -> tuple[float, bool]:
        """Reward, and whether the episode is over, which it never is."""
        hand = self._data.body("hand").xpos[:2]
        self._wish = hand + np.clip(self._wish - hand, -AHEAD, AHEAD)  # what blocks it is not pushed ever harder
        self._wish = np.clip(self._wish + np.clip(numbers, -1, 1) * SPEED / self.rate, -REACH, REACH)
        self._data.ctrl[:] = joints_of(self._wish)
        self._mujoco.mj_step(self._model, self._data, SUBSTEPS)
        return reward_of(self.state) / self.rate, False

    def guide(self, rng: np.random.Generator, numbers: Float[np.ndarray, " k"]) -> Float[np.ndarray, " k"]:
        """What somebody does who plays with the puck: pushes it to the target, and then to other places."""
        state = self.state
        if np.linalg.norm(state[2:] - self._goal) < SOLVED or rng.random() < 1 / (6 * self.rate):
            self._goal = TARGET if rng.random() < 0.4 else rng.uniform(-FENCE, FENCE, 2)
        return np.clip(push(state, self._goal) + rng.normal(0, 0.2, 2), -1, 1).astype(np.float32)

    def expert(self, state: Float[np.ndarray, "4"]) -> Float[np.ndarray, "2"]:
        """What solves the task from a state."""
        return push(state, TARGET)

    def solved(self, state: Float[np.ndarray, "4"]) -> bool:
        """Whether the puck lies on the target."""
        return bool(np.linalg.norm(state[2:] - TARGET) <= SOLVED)

    def hidden(self, state: Float[np.ndarray, "4"]) -> bool:
        """Whether the arm lies over the puck's middle."""
        shoulder, _ = joints_of(state[:2].astype(float))
        elbow = BASE + LINK * np.array([np.cos(shoulder), np.sin(shoulder)])
        return bool(min(_distance(state[2:], *ends) for ends in ((BASE, elbow), (elbow, state[:2]))) < HIDES)

    def render(self) -> UInt8[np.ndarray, "h w 3"]:
        self._renderer.update_scene(self._data, "above")
        return self._renderer.render()


def _apart(rng: np.random.Generator, half: float, other: Point) -> Point:
    while True:
        place = rng.uniform(-half, half, 2)
        if np.linalg.norm(place - other) > AWAY:
            return place


def _distance(place: Point, start: Point, end: Point) -> float:
    """From a place to the line between two others."""
    way = end - start
    share = float(np.clip((place - start) @ way / (way @ way), 0, 1))
    return float(np.linalg.norm(place - start - share * way))
