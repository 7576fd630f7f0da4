"""Environments by name, with their actions as named numbers: our own maze and arm, presets, and any of Gymnasium's."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

import numpy as np
from jaxtyping import Float, UInt8
from PIL import Image

from data.worlds.arm import Arm
from data.worlds.maze import Maze
from gwm.clock import FPS
from gwm.condition.spec import Kind
from gwm.optional import optional_module

GYM = "gym:"
# Presets: what Gymnasium calls them, and the package that registers it on import.
PRESETS = {
    "vizdoom": ("VizdoomMyWayHome-v1", "vizdoom.gymnasium_wrapper"),
    "pusht": ("gym_pusht/PushT-v0", "gym_pusht"),
}
NOOP = "NOOP"


@runtime_checkable
class World(Protocol):
    """An environment that is driven by numbers; one picture belongs to every step."""

    names: tuple[str, ...]  # of the numbers of an action
    kinds: tuple[Kind, ...]  # of each
    rate: float  # steps a second
    most_pressed: int  # discrete numbers that can be 1 at once

    def reset(self, *, seed: int) -> None: ...

    def step(self, numbers: Float[np.ndarray, " k"]) -> tuple[float, bool]:
        """Reward, and whether the episode is over."""
        ...

    def render(self) -> UInt8[np.ndarray, "h w 3"]: ...


@runtime_checkable
class Guided(World, Protocol):
    """A world that knows what a person might do in it."""

    def guide(self, rng: np.random.Generator, numbers: Float[np.ndarray, " k"]) -> Float[np.ndarray, " k"]: ...


@runtime_checkable
class Returning(World, Protocol):
    """A world with actions that lead back to where they began."""

    def around(self) -> Float[np.ndarray, "f k"]: ...


@runtime_checkable
class Tasked(World, Protocol):
    """A world with a task, whose state says how to do it and whether it is done."""

    parts: Mapping[str, slice]  # places in metres among the state's numbers, by what is there

    @property
    def state(self) -> Float[np.ndarray, " s"]: ...

    def expert(self, state: Float[np.ndarray, " s"]) -> Float[np.ndarray, " k"]: ...

    def solved(self, state: Float[np.ndarray, " s"]) -> bool: ...

    def hidden(self, state: Float[np.ndarray, " s"]) -> bool:
        """Whether what the task is about cannot be seen."""
        ...


def make_world(env: str, size: int) -> World:
    """A world by its name, with pictures of `size` px along each side.

    Raises:
        ValueError: there is no such world, or its actions cannot be named numbers.
        MissingPackageError: MuJoCo, Gymnasium, or the package of a preset, is not installed.
    """
    if env == "maze":
        return Maze(size)
    if env == "arm":
        return Arm(size)
    if env in PRESETS:
        return GymWorld(*PRESETS[env], size=size)
    if env.startswith(GYM) and env != GYM:
        return GymWorld(env.removeprefix(GYM), None, size=size)
    raise ValueError(f"env={env!r} must be maze, arm, {', '.join(PRESETS)}, or gym:ID with an ID of Gymnasium.")


@dataclass(frozen=True, slots=True)
class Actions:
    """How numbers become an action of a Gymnasium space."""

    names: tuple[str, ...]
    kinds: tuple[Kind, ...]
    most_pressed: int
    noop: int | None = None  # the action of a Discrete space that no name stands for

    def of(self, space: Any, numbers: Float[np.ndarray, " k"]) -> Any:
        """The action that the numbers mean."""
        kind = type(space).__name__
        if kind == "MultiBinary":
            return (numbers > 0.5).astype(space.dtype).reshape(space.shape)
        if kind == "Box":
            middle, half = (space.high + space.low) / 2, (space.high - space.low) / 2
            return (middle + half * numbers.reshape(space.shape)).astype(space.dtype)
        order = [index for index in range(space.n) if index != self.noop]
        pressed = np.flatnonzero(numbers > 0.5)
        chosen = order[pressed[0]] if len(pressed) else (order[0] if self.noop is None else self.noop)
        return space.dtype.type(chosen + space.start)


def actions_of(space: Any, meanings: Sequence[str] | None) -> Actions:
    """Named numbers for a space of actions: one that is pressed for each action of a Discrete space but the one that
    does nothing, for each bit of a MultiBinary one, and one in [-1, 1] for each number of a Box; of two, a place.

    Raises:
        ValueError: another space, or a Box without bounds.
    """
    kind = type(space).__name__
    if kind == "Discrete":
        known = list(meanings or ())
        names = [str(name).lower() for name in known] or [f"action{index}" for index in range(space.n)]
        noop = known.index(NOOP) if NOOP in known else None
        used = tuple(name for index, name in enumerate(names) if index != noop)
        return Actions(used, ("discrete",) * len(used), 1, noop)
    if kind == "MultiBinary":
        count = int(np.prod(space.shape))
        return Actions(tuple(f"key{index}" for index in range(count)), ("discrete",) * count, 2)
    if kind == "Box":
        if not (np.isfinite(space.low).all() and np.isfinite(space.high).all()):
            raise ValueError(f"action_space={space} must have bounds. Wrap it in gymnasium.wrappers.RescaleAction.")
        count = int(np.prod(space.shape))
        names = tuple(f"axis{index}" for index in range(count))
        return Actions(names, ("continuous",) * count, 0)
    raise ValueError(f"action_space={space} must be Discrete, MultiBinary or Box: others have no named numbers.")


def meanings_of(env: Any) -> list[str] | None:
    """What an environment calls the actions of its Discrete space, if it does."""
    if hasattr(env, "get_action_meanings"):
        return list(env.get_action_meanings())
    if hasattr(env, "button_map"):  # ViZDoom: a row of pressed buttons for each action
        buttons = [button.name for button in env.game.get_available_buttons()]
        return ["_".join(name for name, bit in zip(buttons, row) if bit) or NOOP for row in env.button_map]
    return None


class GymWorld:
    """Any environment of Gymnasium with `render_mode="rgb_array"`.

    Its pictures are scaled to the size that is asked for, the shorter side to fit and the longer one cut.
    """

    def __init__(self, name: str, package: str | None, *, size: int) -> None:
        """package: what registers the name on import; None: Gymnasium knows it, or the name says so, as module:name.

        Raises:
            MissingPackageError: a package is not installed.
            ValueError: the environment does not exist, draws nothing, or its actions have no named numbers.
        """
        gymnasium = _imported("gymnasium")
        if package is not None:
            _imported(package)
        try:
            self.env: Any = gymnasium.make(name, render_mode="rgb_array")
        except gymnasium.error.Error as error:
            raise ValueError(f"env=gym:{name} cannot be made ({error}). Choose another ID, or install it.") from error
        self.actions = actions_of(self.env.action_space, meanings_of(self.env.unwrapped))
        self.names: tuple[str, ...] = self.actions.names
        self.kinds: tuple[Kind, ...] = self.actions.kinds
        self.most_pressed = self.actions.most_pressed
        if package == "gym_pusht":  # its two numbers are a place in the picture
            self.names, self.kinds = ("pointer_x", "pointer_y"), ("pointer", "pointer")
        self.rate = float(self.env.metadata.get("render_fps") or FPS)
        self.size = size

    def reset(self, *, seed: int) -> None:
        self.env.reset(seed=seed % 2**31)

    def step(self, numbers: Float[np.ndarray, " k"]) -> tuple[float, bool]:
        _, reward, terminated, truncated, _ = self.env.step(self.actions.of(self.env.action_space, numbers))
        return float(reward), bool(terminated or truncated)

    def render(self) -> UInt8[np.ndarray, "h w 3"]:
        pixels = np.asarray(self.env.render())
        side = min(pixels.shape[:2])
        top, left = (pixels.shape[0] - side) // 2, (pixels.shape[1] - side) // 2
        square = Image.fromarray(np.ascontiguousarray(pixels[top : top + side, left : left + side, :3]))
        wanted = (self.size, self.size)
        return np.asarray(square if square.size == wanted else square.resize(wanted, Image.Resampling.BOX))


def _imported(name: str) -> Any:
    return optional_module(name, f"pip install {name.partition('.')[0].replace('_', '-')}")
