"""When lids close, and how: for rendered data and for a stream that closes its own eyes."""

import math

import numpy as np
from jaxtyping import Float

from gwm.clock import FPS

# Closing is faster than opening; at 24 fps a blink is 3 to 5 frames (Caffier et al. 2003: 150 to 250 ms).
BLINKS = ((0.6, 1.0, 0.5), (0.5, 1.0, 0.8, 0.3), (0.6, 1.0, 1.0, 0.6, 0.2))
BLINKS_PER_MINUTE = 17
MIN_BLINK_GAP_S = 0.8

EYELIDS = ("eyeBlinkLeft", "eyeBlinkRight")  # ARKit's names of what a blink moves
GAP_FRAMES = math.ceil(MIN_BLINK_GAP_S * FPS)
TURN_FRAMES = 2 * GAP_FRAMES  # in each of them at most one blink
BLINK_SHARE = BLINKS_PER_MINUTE / 60 / FPS * TURN_FRAMES  # of all turns


def blinking(seed: int, first: int, num_frames: int) -> Float[np.ndarray, " f"]:
    """Closure in [0, 1] of the lids of a stream in `num_frames` pixel frames from `first` on.

    Frames depend on seed and number alone, whoever asks for how many of them: a stream that goes back blinks again as
    it did. A turn has its blink, if any, in its first half, so that two of them are never closer than the least gap.
    """
    closure = np.zeros(num_frames + TURN_FRAMES + first % TURN_FRAMES, np.float32)
    for place in range(0, len(closure) - TURN_FRAMES, TURN_FRAMES):
        rng = np.random.default_rng((seed % 2**63, first // TURN_FRAMES + place // TURN_FRAMES))
        if rng.random() < BLINK_SHARE:
            start, shape = place + rng.integers(GAP_FRAMES), BLINKS[rng.integers(len(BLINKS))]
            closure[start : start + len(shape)] = shape
    return closure[first % TURN_FRAMES :][:num_frames]
