"""One clip of a world from its plan: equal plans give equal bytes, in whatever process."""

import functools
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import count, islice
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float, UInt8

from data.shards import CONTINUES, Clip, encode_sample
from data.synthetic import derive_seed
from data.worlds.policies import Policy
from data.worlds.world import World, make_world
from gwm.clock import FPS

LONGEST = 600 * FPS  # pixel frames of an episode whose end is waited for
TRIES = 20  # episodes that may end too early before a clip is given up


@dataclass(frozen=True, slots=True)
class EpisodePlan:
    """Everything that determines a clip."""

    key: str
    seed: int
    num_frames: int
    env: str
    size: int
    policy: str
    hold_s: float
    warmup_s: float  # before the clip begins, at most
    ends: float = 0.0  # chance that the clip is an episode's last frames, and not from its beginning

    @property
    def identity_name(self) -> str:
        return f"episode-{self.seed}"


def plan_episodes(split: str, num_clips: int, *, seed: int, **rest: Any) -> list[EpisodePlan]:
    """The clips of a split; the split's name is in every seed."""
    return [
        EpisodePlan(key=f"{index:08d}-world", seed=derive_seed(seed, split, "episode", index), **rest)
        for index in range(num_clips)
    ]


@functools.cache
def world_of(env: str, size: int) -> World:
    """This process's world: making one may take seconds."""
    return make_world(env, size)


def record(plan: EpisodePlan) -> dict[str, Any]:
    """The encoded sample of a plan."""
    return encode_sample(make_episode(plan, world_of(plan.env, plan.size)))


class Moment(NamedTuple):
    """A pixel frame, and the action of which it is the result."""

    picture: UInt8[np.ndarray, "h w 3"]
    numbers: Float[np.ndarray, " k"]
    reward: float  # since the frame before
    ended: bool  # the episode ends in it
    state: Float[np.ndarray, " s"]  # what the world knows of itself; empty where it does not tell


def make_episode(plan: EpisodePlan, world: World) -> Clip:
    """Play until a clip is whole; its reference is the picture right before it.

    Raises:
        ValueError: no episode lasts that long.
    """
    longest = 0
    for number in range(TRIES):
        seed = derive_seed(plan.seed, "try", number)
        warmup = int(np.random.default_rng(derive_seed(seed, "warmup")).uniform(0, plan.warmup_s) * FPS)
        policy = Policy(world, plan.policy, hold_s=plan.hold_s, seed=derive_seed(seed, "policy"))
        moments = played(world, seed, policy.next)
        if np.random.default_rng(derive_seed(seed, "ends")).random() < plan.ends:
            moments = list(deque(islice(moments, LONGEST), maxlen=plan.num_frames + 1))
            warmup = 0 if moments[-1].ended else len(moments)  # one that goes on for ever is another try
        moments = list(islice(moments, warmup + 1 + plan.num_frames))
        if len(moments) == warmup + 1 + plan.num_frames:
            return _clip(plan, seed, moments[warmup].picture, moments[warmup + 1 :])
        longest = max(longest, len(moments) - 1 - warmup)
    raise ValueError(
        f"num_frames={plan.num_frames} must be at most {max(0, longest)}: in {TRIES} episodes of env={plan.env} with "
        f"policy={plan.policy} none lasted longer. Make shorter clips, lower warmup_s, or choose another policy."
    )


def played(world: World, seed: int, action: Callable[[], Float[np.ndarray, " k"]]) -> Iterator[Moment]:
    """The start of an episode, and then each pixel frame after its action, up to the one in which the episode ends.

    action: the numbers of the next frame, asked for only where a step of the world begins. Of a world with fewer steps
    a second than pictures, picture and action of a step stay; of one with more, all steps between two pictures take the
    same action.
    """
    world.reset(seed=seed)
    numbers, picture, steps, over = np.zeros(len(world.names), np.float32), world.render(), 0, False
    yield Moment(picture, numbers, 0.0, False, _state(world))
    for frame in count(1):
        due, reward = int(frame * world.rate / FPS + 1e-6) - steps, 0.0
        if due:
            numbers = action().copy()
        for _ in range(due):
            gained, over = world.step(numbers)
            reward, steps = reward + gained, steps + 1
            if over:
                break
        picture = world.render() if due else picture
        yield Moment(picture, numbers, reward, over, _state(world))
        if over:
            return


def _state(world: World) -> Float[np.ndarray, " s"]:
    return getattr(world, "state", np.zeros(0, np.float32))


def _clip(plan: EpisodePlan, seed: int, before: UInt8[np.ndarray, "h w 3"], moments: list[Moment]) -> Clip:
    signals = {
        "action": np.stack([moment.numbers for moment in moments]),
        "reward": np.array([[moment.reward] for moment in moments], np.float32),
        "ended": np.array([[moment.ended] for moment in moments], np.float32),
    }
    if len(moments[0].state):
        signals["state"] = np.stack([moment.state for moment in moments])
    return Clip(
        key=plan.key,
        frames=np.stack([moment.picture for moment in moments]),
        agent=None,
        user=None,
        reference=before,
        truth=None,
        info={"identity": plan.identity_name, "style": plan.env, "seed": seed, CONTINUES: True},
        signals=signals,
    )
