"""Where a video is cut: from pictures as a few dots, whose changes are compared."""

import av
import numpy as np
from av.video.reformatter import Colorspace
from jaxtyping import Float, UInt8

THUMBNAIL = (48, 27)  # width and height: what remains of a picture where only its change counts
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


def thumbnail(frame: av.VideoFrame) -> UInt8[np.ndarray, "27 48 3"]:
    """The picture as a few averaged dots, as stored. Its colours are only compared: any matrix will do."""
    width, height = THUMBNAIL
    small = frame.reformat(width, height, "rgb24", src_colorspace=Colorspace.ITU709, interpolation="AREA")
    return small.to_ndarray()
