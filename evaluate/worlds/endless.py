"""Does it hold: minutes of one stream beside the world under the same actions, with a look now and then."""

import time
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Float
from tqdm import tqdm

from data.shards import Clip
from data.synthetic import derive_seed
from data.worlds.policies import Policy
from evaluate.worlds.episodes import Measures
from evaluate.worlds.inverse import classes_of, edges
from evaluate.worlds.players import Actions, Frames, Model, Real
from gwm.clock import FPS
from gwm.metrics.movement import exposure, motion_energy, saturation, sharpness

STATISTICS = ("exposure", "saturation", "sharpness", "motion")
SIDES = ("model", "real")
BAND = 1.5  # by which a statistic may lie below the world's lowest or above its highest
MEAN_LOOKS = 6  # looks over which a statistic is averaged: a single second may show a bare wall

Series = dict[str, Float[np.ndarray, " n"]]  # by "side/statistic", and "seconds"


@dataclass(frozen=True, kw_only=True)
class Length:
    minutes: float | int
    every_s: float | int  # of which one second is looked at

    def __post_init__(self) -> None:
        if self.every_s < 1:
            raise ValueError(f"every_s={self.every_s:g} must be at least 1: one second of them is looked at.")
        least = MEAN_LOOKS * self.every_s / 60
        if 0 < self.minutes < least:
            raise ValueError(
                f"minutes={self.minutes:g} must be 0, for none, or at least {least:g}: {MEAN_LOOKS} looks, one every "
                f"{self.every_s:g} s, are averaged."
            )


def hold(
    model: Model, real: Real, start: Clip, policy: Policy, measures: Measures, length: Length
) -> tuple[Series, list[float]]:
    """Statistics of both sides at each look, and the milliseconds of the model's chunks.

    `policy` plays in the world; the model is given the same actions.
    """
    engine = model.started(start.reference)
    size = engine.contract.chunk_pixel_frames
    chunks, shown = round(length.minutes * 60 * FPS / size), max(2, round(FPS / size))
    period = max(shown, round(length.every_s * FPS / size))
    world, times = _world(real, start, policy), []
    series: defaultdict[str, list[float]] = defaultdict(list)
    seen: list[tuple[Frames, Frames, Actions]] = []
    for chunk in tqdm(range(chunks), desc="long stream", unit="chunk"):
        frames, actions = map(np.stack, zip(*(next(world) for _ in range(size)), strict=True))
        begin = time.perf_counter()
        made = model.step(engine, actions)
        times.append(1000 * (time.perf_counter() - begin))
        if chunk % period < shown:
            seen.append((made, frames, actions))
        if chunk % period == shown - 1:
            both = [np.concatenate(part) for part in zip(*seen, strict=True)]
            series["seconds"].append((chunk + 1) * size / FPS)
            for side, pixels in zip(SIDES, both, strict=False):
                for name, value in look(pixels, both[2], measures).items():
                    series[f"{side}/{name}"].append(value)
            seen = []
    return {name: np.array(values) for name, values in series.items()}, times


def _world(real: Real, start: Clip, policy: Policy) -> Iterator[tuple[Any, Any]]:
    """Pictures of the world that `policy` plays, and its actions. A policy looks at the world that it plays in, so the
    next action is asked for when the picture before it is there."""
    actions: list[np.ndarray] = []

    def chosen() -> Iterator[np.ndarray]:
        while True:
            actions.append(policy.next().copy())
            yield actions[-1]

    for picture in real.pictures(derive_seed(start.info["seed"], "long"), chosen()):
        yield picture, actions[-1]


def look(frames: Frames, actions: Actions, measures: Measures) -> dict[str, float]:
    """Statistics of one second, and the share of its actions' numbers that are recognised (`obeys`)."""
    truth = classes_of(actions[1:], measures.controls)[edges(len(frames) - 1)]
    found = measures.net.read(frames[0], frames[1:])
    return {
        "exposure": float(exposure(frames).mean()),
        "saturation": float(saturation(frames).mean()),
        "sharpness": float(sharpness(frames).mean()),
        "motion": motion_energy(frames),
        "obeys": float((found == truth).mean()),
    }


def smoothed(values: Float[np.ndarray, " n"]) -> Float[np.ndarray, " m"]:
    """Means of MEAN_LOOKS looks, one after the other."""
    return np.convolve(values, np.full(MEAN_LOOKS, 1 / MEAN_LOOKS), "valid")


def bands(series: Series) -> dict[str, tuple[float, float]]:
    """Between which values each statistic of a stream must stay that has not collapsed."""
    found = {}
    for name in STATISTICS:
        real = smoothed(series[f"real/{name}"])
        found[name] = float(real.min() / BAND), float(real.max() * BAND)
    return found


def collapsed(series: Series) -> tuple[float, str] | None:
    """The minute in which a statistic leaves its band for the first time, and its name; None where none does."""
    first: tuple[float, str] | None = None
    for name, (low, high) in bands(series).items():
        values = smoothed(series[f"model/{name}"])
        outside = np.flatnonzero((values < low) | (values > high))
        if len(outside):
            minute = float(series["seconds"][outside[0] + MEAN_LOOKS - 1] / 60)
            first = min(first or (minute, name), (minute, name))
    return first


def held(series: Series, length: Length) -> dict[str, float]:
    """What a report says of the stream: `held_minutes` until it collapses, its whole length where it does not; and
    recognised actions in its first and last fifth, as shares of the world's."""
    fall = collapsed(series)
    fifth = max(1, len(series["seconds"]) // 5)
    found = {"held_minutes": float(length.minutes) if fall is None else fall[0], "collapsed": float(fall is not None)}
    for name, part in (("first", slice(0, fifth)), ("last", slice(-fifth, None))):
        ratio = series["model/obeys"][part].mean() / max(series["real/obeys"][part].mean(), 1e-6)
        found[f"obeys_{name}_fifth"] = float(ratio)
    for name in STATISTICS:
        found[f"{name}_last_fifth"] = float(
            series[f"model/{name}"][-fifth:].mean() / max(series[f"real/{name}"].mean(), 1e-6)
        )
    return found
