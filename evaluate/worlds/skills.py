"""Policies of different skill, and the places where they act: the world, the world seen through the model's
autoencoder, the model, and the model when it is not given their actions."""

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

import numpy as np
import torch
from jaxtyping import Float, UInt8

from data.synthetic import derive_seed
from data.worlds.episodes import Moment, played
from data.worlds.world import Tasked
from gwm.media.pixels import to_tensor
from gwm.outcome import OutcomeHead, OutcomeStream
from serve.artifact import Artifact

State = Float[np.ndarray, " s"]
Numbers = Float[np.ndarray, " k"]


@dataclass(frozen=True, kw_only=True)
class Skill:
    """The world's expert, made worse: what it sees is shifted and late, what it does is scaled and noisy."""

    name: str
    gain: float | int = 1.0  # its actions are multiplied by it; 0: it rests
    noise: float | int = 0.0  # deviation of what is added to each number of an action
    late_s: float | int = 0.0  # age of the state that it sees
    shift_m: float | int = 0.0  # by which everything seems to lie further to the right
    stops_s: float | int | None = None  # after which it rests


class Acting:
    """A skill in one episode; `seed` draws its noise."""

    def __init__(self, skill: Skill, world: Tasked, *, step_s: float, seed: int) -> None:
        self.skill, self.world, self.step_s = skill, world, step_s
        self.rng = np.random.default_rng(derive_seed(seed, skill.name))
        self.seen: deque[State] = deque(maxlen=1 + round(skill.late_s / step_s))
        self.steps = 0
        self.shift = np.zeros(len(world.state), np.float32)
        for part in world.parts.values():
            self.shift[part.start] = skill.shift_m

    def __call__(self, state: State | None) -> Numbers:
        """The next action; none at rest before anything was seen."""
        noise = self.rng.normal(0, 1, len(self.world.names)) * self.skill.noise
        self.steps += 1
        if state is not None:
            self.seen.append(state + self.shift)
        stopped = self.skill.stops_s is not None and self.steps * self.step_s > self.skill.stops_s
        if not self.seen or stopped:
            return np.zeros(len(self.world.names), np.float32)
        wish = self.skill.gain * self.world.expert(self.seen[0]) + noise
        return np.clip(wish, -1, 1).astype(np.float32)


@dataclass(frozen=True)
class Step:
    """What came of an action that was held for a chunk."""

    state: State  # as it is seen there
    true: State | None  # as it is; None where nobody knows
    reward: float
    frames: UInt8[np.ndarray, "f h w 3"]


@runtime_checkable
class Arena(Protocol):
    def start(self, seed: int) -> None: ...

    def step(self, numbers: Numbers) -> Step: ...


class Actual:
    """The world; `start` is an episode's seed, and an action is held for `frames` pixel frames."""

    def __init__(self, world: Tasked, frames: int) -> None:
        self.world, self.frames = world, frames

    def start(self, seed: int) -> None:
        self._numbers = np.zeros(len(self.world.names), np.float32)
        self._moments = played(self.world, seed, lambda: self._numbers)
        self.first = next(self._moments)

    def step(self, numbers: Numbers) -> Step:
        moments = self._next(numbers)
        state = moments[-1].state
        return Step(state, state, sum(m.reward for m in moments), np.stack([m.picture for m in moments]))

    def _next(self, numbers: Numbers) -> list[Moment]:
        self._numbers = numbers
        return [next(self._moments) for _ in range(self.frames)]


class Seen(Actual):
    """The world as it is read from its pictures: what the model's reader reaches on real ones. Rewards are read too."""

    def __init__(self, world: Tasked, frames: int, artifact: Artifact, head: OutcomeHead) -> None:
        super().__init__(world, frames)
        self.vae, self.head = artifact.vae, head

    @torch.no_grad()
    def start(self, seed: int) -> None:
        super().start(seed)
        self.reference = self.vae.encode_reference(to_tensor(self.first.picture)[None])
        self.outcome = OutcomeStream(self.head)
        self.outcome.start(self.reference.latent)

    @torch.no_grad()
    def step(self, numbers: Numbers) -> Step:
        moments = self._next(numbers)
        frames = np.stack([moment.picture for moment in moments])
        found = self.outcome(self.vae.encode(to_tensor(frames)[None], self.reference))
        state = found[-1].state[0].cpu().numpy()
        return Step(state, moments[-1].state, sum(float(one.reward) for one in found), frames)


class Simulated:
    """The model, as `serve.simulator` serves it; an episode begins at the world's first picture."""

    def __init__(self, world: Tasked, env: Any) -> None:
        """env: of Gymnasium."""
        self.world, self.env = world, env

    def start(self, seed: int) -> None:
        self.world.reset(seed=seed)
        self.env.reset(seed=seed % 2**31, options={"image": self.world.render().copy()})

    def step(self, numbers: Numbers) -> Step:
        _, reward, _, _, info = self.env.step(numbers)
        return Step(info["state"], None, float(reward), info["frames"])


class Deaf(Simulated):
    """The model, given rest in place of every action: a control."""

    def step(self, numbers: Numbers) -> Step:
        return super().step(np.zeros_like(numbers))


@dataclass(frozen=True)
class Episode:
    """A policy's score from one start."""

    total: float  # reward, summed
    solved: float  # 1: the task is done at the end
    truly: float  # the same by the true state; NaN where nobody knows
    errors_m: dict[str, list[float]]  # by part of the state, at each step: how far what is seen is from what is
    frames: UInt8[np.ndarray, "f h w 3"]


def rollout(arena: Arena, policy: Acting, *, start: int, steps: int) -> Episode:
    """One episode in closed loop: the policy acts on what is seen where it acts."""
    arena.start(start)
    made: list[Step] = []
    for _ in range(steps):
        made.append(arena.step(policy(made[-1].state if made else None)))
    world, last = policy.world, made[-1]
    return Episode(
        total=sum(step.reward for step in made),
        solved=float(world.solved(last.state)),
        truly=float("nan") if last.true is None else float(world.solved(last.true)),
        errors_m={name: errors(made, part) for name, part in world.parts.items()},
        frames=np.concatenate([step.frames for step in made]),
    )


def errors(steps: Sequence[Step], part: slice) -> list[float]:
    return [float(np.linalg.norm(s.state[part] - s.true[part])) for s in steps if s.true is not None]
