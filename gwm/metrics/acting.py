"""How a character acts, measured on codes of the motion autoencoder: no picture is decoded."""

import numpy as np
from jaxtyping import Bool, Float
from scipy.stats import wasserstein_distance

from gwm.autoencoders.motion.code import FRAMES, GAZE, POSE, place
from gwm.clock import FPS
from gwm.metrics.lip_sync import correlation, moves
from gwm.metrics.listening import per_minute, response

Code = Float[np.ndarray, "f 57"]  # in actions, radians and gaze, as `code.physical` gives it

JAW, BROW, BLINK, PITCH = (place(name) for name in ("jawOpen", "browInnerUp", "eyeBlinkLeft", "pitch"))
SHUT_LIDS = 0.5  # closure from which eyes count as shut
OPEN_JAW = 0.1  # which no listener of the data reaches
RATIOS = ("opening", "blinks", "head", "head_spread", "brows", "gaze")  # measures to be compared with the data's


def measure(code: Code, truth: Code, user: Float[np.ndarray, " t"], listening: Bool[np.ndarray, " f"]) -> dict:
    """What one person does, where the truth is what it was to do; NaN where the clip cannot show it.

    lip_sync: correlation of the jaw's opening. opening: its deviation. blinks: a minute. head, brows, gaze: mean change
    from frame to frame, in radians and units of a code. head_spread: deviation of the pose. head_steps: as `steps`.
    false_mouth: share of listening with an open jaw. response: as `listening.response`.
    """
    shut = code[:, BLINK] > SHUT_LIDS
    return {
        "lip_sync": correlation(code[:, JAW], truth[:, JAW]) if moves(truth[:, JAW]) else float("nan"),
        "opening": float(code[:, JAW].std()),
        "blinks": per_minute(int((shut[1:] & ~shut[:-1]).sum()), len(code)),
        "head": float(speed(code[:, POSE]).mean()),
        "head_spread": float(np.sqrt(code[:, POSE].var(axis=0).sum())),
        "head_steps": steps(code[:, POSE]),
        "brows": float(speed(code[:, BROW : BROW + 1]).mean()),
        "gaze": float(speed(code[:, GAZE]).mean()),
        "false_mouth": float((code[listening, JAW] > OPEN_JAW).mean()) if listening.sum() >= FPS else float("nan"),
        "response": response(code[:, PITCH], user, listening),
    }


def speed(track: Float[np.ndarray, "f k"]) -> Float[np.ndarray, " f-1"]:
    """Length of the change from frame to frame."""
    return np.linalg.norm(np.diff(track, axis=0), axis=1)


def steps(track: Float[np.ndarray, "f k"]) -> float:
    """Change across borders of latent frames over that inside them: 1 is smooth, 2 a staircase that shows."""
    change = speed(track)
    border = np.arange(FRAMES - 1, len(change) - 1, FRAMES)
    return float(change[border].sum() / (change[border - 1] + change[border + 1]).clip(min=1e-9).sum() * 2)


def distances(made: list[Code], truth: list[Code]) -> dict[str, float]:
    """Wasserstein distances of what frames show, in standard deviations of the truth: 0 is the same distribution.

    Of the jaw's opening, and of the speed of jaw, head, brows and gaze, which tells rhythm from jitter.
    """
    tracks = {
        "jaw": lambda code: code[:, JAW],
        "jaw_speed": lambda code: speed(code[:, JAW : JAW + 1]),
        "head_speed": lambda code: speed(code[:, POSE]),
        "brows_speed": lambda code: speed(code[:, BROW : BROW + 1]),
        "gaze_speed": lambda code: speed(code[:, GAZE]),
    }
    found = {}
    for name, track in tracks.items():
        ours, theirs = (np.concatenate([track(code) for code in codes]) for codes in (made, truth))
        found[f"{name}_distance"] = float(wasserstein_distance(ours, theirs) / max(theirs.std(), 1e-6))
    return found
