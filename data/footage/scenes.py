"""Shot boundaries, from the differences of small pictures."""

from itertools import pairwise

import numpy as np
from jaxtyping import Float, Int, UInt8

MIN_CHANGE = 15.0  # mean absolute difference, of 255; hard cuts of test footage: 44 and more, its motion: under 20
MIN_RATIO = 3.0  # to the median change of the pictures around: a fast pan changes every picture
NEIGHBOURS = 4


class ChangeMeter:
    """Differences of each thumbnail to the one before and to the one before that."""

    def __init__(self) -> None:
        self.step: list[float] = []
        self.skip: list[float] = []
        self._past: list[UInt8[np.ndarray, "27 48 3"]] = []

    def add(self, thumbnail: UInt8[np.ndarray, "27 48 3"]) -> None:
        differences = [float(np.abs(thumbnail.astype(np.int16) - old).mean()) for old in reversed(self._past)]
        step, skip, *_ = [*differences, 0.0, 0.0]
        self.step.append(step)
        self.skip.append(skip)
        self._past = [*self._past[-1:], thumbnail]


def find_cuts(step: Float[np.ndarray, " n"], skip: Float[np.ndarray, " n"]) -> list[int]:
    """Pictures that begin a shot, the first one not included.

    A cut changes a picture against both pictures before it, by much more than those around it change; a flash does
    not, as the picture after it is like the one before. Dissolves are not found.
    Source: the rule of ratio to neighbours is that of PySceneDetect's AdaptiveDetector.
    """
    cuts = []
    for i in np.flatnonzero(step >= MIN_CHANGE).tolist():
        around = np.concatenate([step[max(1, i - NEIGHBOURS) : i], step[i + 1 : i + 1 + NEIGHBOURS]])
        against_before = skip[i] if i > 1 else step[i]
        after_against_before = skip[i + 1] if i + 1 < len(skip) else step[i]
        lasting = min(against_before, after_against_before) >= MIN_CHANGE
        if lasting and step[i] >= MIN_RATIO * (np.median(around) if len(around) else 0.0):
            cuts.append(i)
    return cuts


def shown_pictures(times_s: Float[np.ndarray, " n"], end_s: float, fps: int) -> Int[np.ndarray, " f"]:
    """Which picture is on the screen in the middle of each frame of a steady clock that starts at 0."""
    num_frames = int(end_s * fps + 0.5)
    middles = (np.arange(num_frames) + 0.5) / fps
    return (np.searchsorted(times_s, middles, side="right") - 1).clip(0)


def scene_frames(shown: Int[np.ndarray, " f"], cuts: list[int]) -> list[range]:
    """Frames of each shot, in order, on the clock of `shown`; shots that no frame shows are left out."""
    scene = np.searchsorted(np.array(cuts, dtype=int), shown, side="right")
    edges = [0, *(np.flatnonzero(np.diff(scene)) + 1).tolist(), len(shown)]
    return [range(a, b) for a, b in pairwise(edges) if a < b]
