"""Spectacles: two rims, a bridge and two temples, as tubes that stay with the skull."""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Int

from data.characters.hair import grid
from data.characters.head import PARTS, load_head

BEFORE_EYES = 0.031  # metres from the eyes' middles to the plane of the lenses
SIDES = 6  # of a tube
# Half width and half height of a lens, roundness (2: an ellipse, more: a box), height of the outer corner, thickness.
SHAPES: dict[str, tuple[float, float, float, float, float]] = {
    "round": (0.021, 0.020, 2.0, 0.0, 0.0011),
    "square": (0.024, 0.017, 4.0, 0.0, 0.0017),
    "cat": (0.024, 0.016, 2.8, 0.006, 0.0020),
    "large": (0.026, 0.023, 3.0, 0.002, 0.0014),
}


@dataclass(frozen=True)
class Glasses:
    """Vertices in the frame of the head at rest, which move with it rigidly."""

    vertices: Float[np.ndarray, "v 3"]
    normals: Float[np.ndarray, "v 3"]
    faces: Int[np.ndarray, "t 3"]


def build_glasses(kind: str, face: Float[np.ndarray, "v 3"]) -> Glasses | None:
    """Glasses of one of `appearance.GLASSES_KINDS` for a face at rest; None for "none"."""
    if kind == "none":
        return None
    wide, high, power, corner, thick = SHAPES[kind]
    head = load_head()
    eyes = [face[head.part == PARTS.index(name)].mean(0) for name in ("eye_left", "eye_right")]
    plane = float(np.mean([eye[1] for eye in eyes])) - BEFORE_EYES
    level = float(np.mean([eye[2] for eye in eyes])) - 0.002
    away = float(np.mean([abs(eye[0]) for eye in eyes])) + 0.002
    temple = (head.part == 0) & (face[:, 1] > 0.01) & (face[:, 1] < 0.04) & (np.abs(face[:, 2] - level) < 0.012)
    side = float(np.abs(face[temple, 0]).max()) + 0.001
    angle = np.linspace(0, 2 * np.pi, 49)
    cos, sin = np.cos(angle), np.sin(angle)
    x = np.sign(cos) * np.abs(cos) ** (2 / power) * wide
    z = np.sign(sin) * np.abs(sin) ** (2 / power) * high
    z = z + corner * np.clip(x / wide, 0, 1) * (z > 0)
    tubes = []
    for sign in (-1, 1):
        rim = np.stack([sign * (away + x), plane + 0.10 * np.abs(x / wide + 0.3) * wide, level + z], 1)
        hinge = np.array([sign * (away + wide), plane + 0.1 * 1.3 * wide, level + 0.5 * high])
        joint = np.array([sign * side, hinge[1] + 0.02, level + 0.45 * high])
        ear = np.array([sign * side, hinge[1] + 0.11, level + 0.2 * high])
        tubes += [_tube(rim, thick), _tube(np.stack([hinge, joint, ear]), 0.9 * thick)]
    arch = np.linspace(-1, 1, 7)
    gap = max(away - wide, 0.004)
    bridge = np.stack([gap * arch, np.full(7, plane), level + 0.25 * high + 0.004 * (1 - arch**2)], 1)
    return _join([*tubes, _tube(bridge, 0.9 * thick)])


def _tube(path: Float[np.ndarray, "n 3"], radius: float) -> Glasses:
    """A tube around a path of points."""
    along = np.gradient(path, axis=0)
    along /= np.linalg.norm(along, axis=1, keepdims=True)
    up = np.where(np.abs(along[:, 2:]) > 0.9, [[1.0, 0.0, 0.0]], [[0.0, 0.0, 1.0]])
    first = np.cross(along, up)
    first /= np.linalg.norm(first, axis=1, keepdims=True)
    second = np.cross(first, along)
    angle = np.linspace(0, 2 * np.pi, SIDES + 1)[:, None, None]
    outwards = np.cos(angle) * first + np.sin(angle) * second
    points = path + radius * outwards
    piece = grid(points[..., 0], points[..., 1], points[..., 2])
    return Glasses(piece.vertices, outwards.reshape(-1, 3).astype(np.float32), piece.faces)


def _join(tubes: list[Glasses]) -> Glasses:
    starts = np.cumsum([0] + [len(tube.vertices) for tube in tubes[:-1]])
    return Glasses(
        np.concatenate([tube.vertices for tube in tubes]),
        np.concatenate([tube.normals for tube in tubes]),
        np.concatenate([tube.faces + start for tube, start in zip(tubes, starts, strict=True)]).astype(np.int32),
    )
