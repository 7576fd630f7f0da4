"""Contact and what is hidden: the same actions in the world and in the model, and where each then has the thing."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
from jaxtyping import Float, UInt8

from data.synthetic import derive_seed
from data.worlds.policies import Policy
from data.worlds.world import Tasked
from evaluate.worlds.skills import Acting, Arena, Skill, State, Step
from gwm.clock import FPS

MOVED, STILL = 0.05, 0.005  # m: a thing that was pushed, at least; one that nothing touched, at most
NEAR = 0.03  # m from where it should be, up to which a thing counts as kept
HIDDEN_S = 0.3  # that it is hidden at least
TRIES = 1500  # episodes that are looked through
HOLD_S = 0.6  # of the random actions among which hidden things are looked for

Actions = Float[np.ndarray, "c k"]  # one a chunk


@dataclass(frozen=True)
class Kept:
    """Cases of one kind."""

    numbers: dict[str, float]
    frames: dict[str, UInt8[np.ndarray, "f h w 3"]]  # by "case: side"


def judge_cases(
    world: Tasked, seen: Arena, model: Arena, *, frames: int, count: int, seconds: float | int, seed: int
) -> dict[str, Kept]:
    """`contact`: the expert pushes; `hidden`: the arm passes over what it does not touch. Open loop."""
    chunks = round(seconds * FPS / frames)
    kinds = {"contact": (expert, was_pushed), "hidden": (anybody, partial(was_hidden, step_s=frames / FPS))}
    return {
        name: judged(cases(name, world, frames, chunks, count, seed, *parts), world, seen, model)
        for name, parts in kinds.items()
    }


def expert(world: Tasked, step_s: float, seed: int) -> Callable[[State], Any]:
    return Acting(Skill(name="expert"), world, step_s=step_s, seed=seed)


def anybody(world: Tasked, step_s: float, seed: int) -> Callable[[State], Any]:
    policy = Policy(world, "random", hold_s=HOLD_S / (step_s * world.rate), seed=seed)  # one action a chunk
    return lambda _: policy.next().copy()


def thing(world: Tasked) -> slice:
    """What the task is about: the last part of the state."""
    return list(world.parts.values())[-1]


def was_pushed(world: Tasked, states: Float[np.ndarray, "c s"]) -> bool:
    way = states[-1, thing(world)] - states[0, thing(world)]
    return bool(np.linalg.norm(way) >= MOVED)


def was_hidden(world: Tasked, states: Float[np.ndarray, "c s"], *, step_s: float) -> bool:
    """It lay still, and was hidden for a while, but at neither end. step_s: from a state to the next."""
    away = np.linalg.norm(states[:, thing(world)] - states[0, thing(world)], axis=1)
    hidden = [world.hidden(state) for state in states]
    ends = any(hidden[:2]) or any(hidden[-2:])
    return bool(away.max() <= STILL and not ends and sum(hidden) * step_s >= HIDDEN_S)


def cases(
    name: str,
    world: Tasked,
    frames: int,
    chunks: int,
    count: int,
    seed: int,
    policy: Callable[[Tasked, float, int], Callable[[State], Any]],
    fits: Callable[[Tasked, Float[np.ndarray, "c s"]], bool],
) -> list[tuple[int, Actions]]:
    """Starts, and actions from each, that show what is asked for; fewer where few were found."""
    found: list[tuple[int, Actions]] = []
    for number in range(TRIES):
        if len(found) == count:
            break
        start = derive_seed(seed, name, number)
        acts = policy(world, frames / FPS, start)
        world.reset(seed=start)
        states, actions, steps = [world.state], list[Any](), 0
        for chunk in range(1, chunks + 1):
            actions.append(acts(states[-1]))
            while steps < int(chunk * frames * world.rate / FPS + 1e-6):  # as `data.worlds.episodes.played`
                world.step(actions[-1])
                steps += 1
            states.append(world.state)
        if fits(world, np.stack(states)):
            found.append((start, np.stack(actions)))
    return found


def judged(found: list[tuple[int, Actions]], world: Tasked, seen: Arena, model: Arena) -> Kept:
    """How far the thing is in the end from where it should be: in the model, read from the world's own pictures (the
    ceiling), and if it had not moved."""
    part, errors, frames = thing(world), dict[str, list[float]](model=[], seen=[], unmoved=[]), {}
    for number, (start, actions) in enumerate(found):
        played = {side: _played(arena, start, actions) for side, arena in (("world", seen), ("model", model))}
        world.reset(seed=start)
        before, last = world.state[part], played["world"][0][-1].true
        assert last is not None, "seen acts in the world, which knows its state"
        true = last[part]
        for side, state in (("model", played["model"]), ("seen", played["world"])):
            errors[side].append(float(np.linalg.norm(state[0][-1].state[part] - true)))
        errors["unmoved"].append(float(np.linalg.norm(before - true)))
        frames |= {f"{number + 1}: {side}": pixels for side, (_, pixels) in played.items()}
    numbers: dict[str, float] = {"cases": float(len(found))}
    for side, values in errors.items():
        if values:
            numbers |= {f"{side}_mm": float(1000 * np.mean(values))}
            numbers |= {f"{side}_kept": float(np.mean(np.array(values) <= NEAR))}
    return Kept(numbers, frames)


def _played(arena: Arena, start: int, actions: Actions) -> tuple[list[Step], UInt8[np.ndarray, "f h w 3"]]:
    arena.start(start)
    steps = [arena.step(numbers) for numbers in actions]
    return steps, np.concatenate([step.frames for step in steps])
