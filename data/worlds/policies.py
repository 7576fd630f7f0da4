"""What is pressed while a world is recorded: every action often enough, and long enough for its effect to be seen."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float

from data.worlds.world import Guided, World

POLICIES = ("random", "scripted", "mixed")
IDLE = 0.15  # chance that a random action presses nothing


class Policy:
    """`next` gives the numbers of a step.

    random: another action after a while that is drawn anew each time, `hold_s` on average; scripted: what the world
    itself suggests; mixed: one of the two, by turns of `turn_s` on average.
    """

    turn_s = 3.0

    def __init__(self, world: World, name: str, *, hold_s: float, seed: int) -> None:
        """
        Raises:
            ValueError: there is no such policy, the world suggests nothing, or `hold_s` is not above 0.
        """
        if name not in POLICIES:
            raise ValueError(f"policy={name!r} must be one of {', '.join(POLICIES)}.")
        if name == "scripted" and not isinstance(world, Guided):
            raise ValueError(f"policy={name} must be random: this world does not say what a person would do in it.")
        if not hold_s > 0:
            raise ValueError(f"hold_s={hold_s} must be above 0: seconds that an action is held on average.")
        self.world, self.name, self.hold_s = world, name, hold_s
        self.rng = np.random.default_rng(seed)
        self.numbers = np.zeros(len(world.names), np.float32)
        self._scripted = name == "scripted"
        self._left = self._turn_left = 0

    def next(self) -> Float[np.ndarray, " k"]:
        """The action of the next step."""
        if self.name == "mixed" and isinstance(self.world, Guided):
            if self._turn_left <= 0:
                self._scripted, self._turn_left = bool(self.rng.random() < 0.5), self._drawn(self.turn_s)
            self._turn_left -= 1
        if self._scripted and isinstance(self.world, Guided):
            self.numbers = self.world.guide(self.rng, self.numbers).astype(np.float32)
            return self.numbers
        if self._left <= 0:
            self.numbers, self._left = random_action(self.world, self.rng), self._drawn(self.hold_s)
        self._left -= 1
        return self.numbers

    def _drawn(self, mean_s: float) -> int:
        """Steps, geometric: however long an action has lasted, nobody knows when it ends."""
        return int(self.rng.geometric(min(1.0, 1 / max(1.0, mean_s * self.world.rate))))


def random_action(world: World, rng: np.random.Generator) -> Float[np.ndarray, " k"]:
    """Nothing, or up to `most_pressed` discrete numbers; and any value of each other one."""
    discrete = np.array([kind == "discrete" for kind in world.kinds])
    numbers = np.where(discrete, 0.0, rng.uniform(-1, 1, len(discrete))).astype(np.float32)
    places = np.flatnonzero(discrete)
    if len(places) and rng.random() >= IDLE:
        count = rng.integers(1, min(world.most_pressed, len(places)) + 1)
        numbers[rng.choice(places, count, replace=False)] = 1
    return numbers


@dataclass(frozen=True, slots=True)
class Coverage:
    """How often each value of an action was taken in a data set, and how long it was held."""

    frames: int
    share: dict[str, float]  # of frames in which a discrete number is 1; of the range, in tenths, that others reached
    idle: float  # share of frames in which every number is 0
    held_frames: float  # from one change of the action to the next, on average

    def missing(self, minimum: float) -> list[str]:
        """Numbers that were taken too rarely to be learned."""
        return [name for name, share in self.share.items() if share < minimum]


def coverage(names: Sequence[str], kinds: Sequence[str], clips: Sequence[Float[np.ndarray, "f k"]]) -> Coverage:
    """The coverage of recorded actions."""
    rows = np.concatenate(list(clips))
    changes = sum(int((np.diff(clip, axis=0) != 0).any(1).sum()) + 1 for clip in clips)
    share = {}
    for name, kind, column in zip(names, kinds, rows.T, strict=True):
        tenths = np.unique(np.floor((column.clip(-1, 1) + 1) * 4.999).astype(int))
        share[name] = float(column.mean()) if kind == "discrete" else len(tenths) / 10
    return Coverage(len(rows), share, float((rows == 0).all(1).mean()), len(rows) / changes)
