"""The manner of a performance: how lively it is, and in which mood. Declared in configs/condition/manner.yaml, so that
whoever serves a model may set it."""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float
from scipy.signal import lfilter

from data.actions import ACTION_NAMES, index
from gwm.clock import FPS

LIVELINESS = (0.05, 1.0)  # still, lively; 0.5 is natural, and 0 means that nothing is given
# Facial actions of a mood at full strength, after the prototypes of Ekman and Friesen's action units; on both sides.
MOODS: dict[str, dict[str, float]] = {
    "joy": {"mouthSmile": 0.75, "cheekSquint": 0.5, "eyeSquint": 0.2, "browOuterUp": 0.15},  # AU 6 + 12
    "sadness": {"mouthFrown": 0.6, "browInnerUp": 0.6, "mouthShrugLower": 0.3},  # AU 1 + 15 + 17
    "anger": {"browDown": 0.8, "noseSneer": 0.35, "mouthPress": 0.25, "eyeSquint": 0.3},  # AU 4 + 7 + 9 + 24
    "surprise": {"eyeWide": 0.7, "browInnerUp": 0.5, "browOuterUp": 0.6},  # AU 1 + 2 + 5
}
NAMES = ("liveliness", *MOODS)
NEUTRAL_SHARE = 0.45  # of the stretches, in which there is no mood
STRETCH_S = (3.0, 9.0)  # between changes of the manner
RISE_S = 0.15  # time constant of each of two filters: a face follows its manner within half a second
NOD_RAD = {"joy": 0.02, "sadness": -0.06, "anger": -0.03, "surprise": 0.03}  # pitch of the head at full strength


@dataclass(frozen=True, slots=True)
class Manner:
    """The requested manner in every pixel frame: numbers in the order of NAMES, moods in [0, 1]."""

    given: Float[np.ndarray, "f 5"]

    @property
    def followed(self) -> Float[np.ndarray, "f 5"]:
        """The manner as a face follows it: later, and smoothly."""
        pole = float(np.exp(-1 / (RISE_S * FPS)))
        taps, poles = [(1 - pole) ** 2], [1, -2 * pole, pole**2]
        first = self.given[:1]
        return (first + lfilter(taps, poles, self.given - first, axis=0)).astype(np.float32)

    @property
    def gain(self) -> Float[np.ndarray, " f"]:
        """Gain of movements of head and brows: from 0.28 for the stillest to 1.8 for the liveliest, 1 when natural."""
        return (0.2 + 1.6 * self.followed[:, 0]).astype(np.float32)

    @property
    def actions(self) -> Float[np.ndarray, "f 52"]:
        """Facial actions of the mood alone."""
        out = np.zeros((len(self.given), len(ACTION_NAMES)), np.float32)
        for column, mood in zip(self.followed[:, 1:].T, MOODS.values(), strict=True):
            for name, weight in mood.items():
                for action in (name,) if name in ACTION_NAMES else (f"{name}Left", f"{name}Right"):
                    out[:, index(action)] += weight * column
        return out

    @property
    def pitch(self) -> Float[np.ndarray, " f"]:
        """Head pitch of the mood alone, in radians."""
        return self.followed[:, 1:] @ np.array(list(NOD_RAD.values()), np.float32)


def draw_manner(rng: np.random.Generator, num_frames: int) -> Manner:
    """Stretches of a few seconds: any liveliness, and none of the moods or one of them at any strength from 0.3 on."""
    given = np.zeros((num_frames, len(NAMES)), np.float32)
    frame = 0
    while frame < num_frames:
        stop = frame + round(rng.uniform(*STRETCH_S) * FPS)
        given[frame:stop, 0] = rng.uniform(*LIVELINESS)
        neutral, mood, strength = rng.random() < NEUTRAL_SHARE, rng.integers(len(MOODS)), rng.uniform(0.3, 1.0)
        if not neutral:
            given[frame:stop, 1 + mood] = strength
        frame = stop
    return Manner(given)
