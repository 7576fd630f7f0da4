"""Procedural hair: a shell over the scalp, and for some kinds a drape or a knot. The asset's own hides the face."""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float, Int

from data.characters.head import load_head, normals

SUNK = 0.002  # metres: hair thinner than this stays under the skin, which makes the hairline


@dataclass(frozen=True)
class Hair:
    """Vertices in the frame of the head at rest, which move with it rigidly."""

    vertices: Float[np.ndarray, "v 3"]
    normals: Float[np.ndarray, "v 3"]
    faces: Int[np.ndarray, "t 3"]
    roots: Float[np.ndarray, "n"]  # per vertex of the head: 1 where skin shows the colour of hair, soft border
    covers: Bool[np.ndarray, "n"]  # per vertex of the head: hidden under hair from everywhere


@dataclass(frozen=True)
class _Piece:
    vertices: Float[np.ndarray, "v 3"]
    normals: Float[np.ndarray, "v 3"]
    faces: Int[np.ndarray, "t 3"]


def _scalp(rest: np.ndarray, *, hairline: float, nape: float) -> np.ndarray:
    """1 on the scalp of the average head, falling to 0 over a soft border; hairline and nape are heights in metres."""
    x, y, z = rest.T
    front = z - (hairline - 0.25 * np.clip(y, 0, 0.05) - 0.006 * np.cos(x * 45))
    behind_ear = np.minimum((y - 0.100) * 1.2, z - nape)
    over_ear = np.minimum(z - 0.028, (y - 0.035) * 1.5)
    depth = np.maximum(np.maximum(front, behind_ear), over_ear)
    ear = (np.abs(x) > 0.0765) & (z < 0.03)
    return np.clip(depth / 0.012, 0, 1) * ~ear


def _shell(face: np.ndarray, thickness: np.ndarray) -> _Piece:
    """The skin's faces where `thickness` is positive, lifted along their normals."""
    head = load_head()
    faces = head.skin_faces[(thickness[head.skin_faces] > 1e-4).any(1)]
    used = np.unique(faces)
    index = np.zeros(head.num_vertices, np.int32)
    index[used] = np.arange(len(used))
    lifted = face + normals(face) * (thickness[:, None] - SUNK)
    surface = _smooth_normals(lifted[used], index[faces])
    return _Piece(lifted[used].astype(np.float32), surface, index[faces])


def _smooth_normals(vertices: np.ndarray, faces: np.ndarray) -> np.ndarray:
    corner = vertices[faces]
    flat = np.cross(corner[:, 1] - corner[:, 0], corner[:, 2] - corner[:, 0])
    summed = np.stack([np.bincount(faces.ravel(), np.repeat(flat[:, c], 3), len(vertices)) for c in range(3)], 1)
    return (summed / np.maximum(np.linalg.norm(summed, axis=1, keepdims=True), 1e-9)).astype(np.float32)


def _grid_faces(rows: int, columns: int) -> np.ndarray:
    a = (np.arange(rows - 1)[:, None] * columns + np.arange(columns - 1)).ravel()
    return np.concatenate([np.stack([a, a + 1, a + columns], 1), np.stack([a + 1, a + columns + 1, a + columns], 1)])


def grid(x: np.ndarray, y: np.ndarray, z: np.ndarray) -> _Piece:
    """A sheet from rows and columns of points, its normals on the side from which the rows run down to the right."""
    faces = _grid_faces(*x.shape)
    vertices = np.stack([x, y, z], -1).reshape(-1, 3).astype(np.float32)
    return _Piece(vertices, _smooth_normals(vertices, faces), faces)


def _drape(face: np.ndarray, *, bottom: float, volume: float, opening: float) -> _Piece:
    """A curtain around the back and sides of the head, open towards the face by `opening` radians on each side.

    Its upper end is a dome that meets the shell; below the jaw its front edges fold inwards and become locks.
    """
    skull = face[face[:, 2] > 0.03]
    side, back = np.abs(skull[:, 0]).max() + 0.016, skull[:, 1].max() + 0.014
    middle = back - 1.15 * side
    columns, rows = 41, 22
    edge = np.linspace(-1, 1, columns)[None]
    z = np.linspace(0.11, bottom, rows)[:, None]
    angle = np.clip(edge / 0.85, -1, 1) * (np.pi - opening)
    dome = np.sqrt(np.clip(1 - np.square(np.clip((z - 0.02) / 0.105, 0, 1)), 0.02, 1))
    hang = np.clip((0.02 - z) / (0.02 - bottom), 0, 1)
    wide = dome * (1 + 0.10 * volume * hang**0.7) * (1 + 0.02 * np.sin(9 * angle + 2 * z / 0.1))
    fold = np.clip((np.abs(edge) - 0.85) / 0.15, 0, 1) * np.clip((-0.02 - z) / 0.06, 0, 1)
    tuck = 1 - 0.3 * np.clip((z - bottom) / -0.05 + 1, 0, 1)  # the ends turn in
    x = side * np.sin(angle) * wide * (1 - 0.42 * fold) * (0.9 + 0.1 * tuck)
    y = middle + 1.15 * side * np.cos(angle) * wide - 0.022 * np.sin(np.pi * fold) + 0.02 * fold
    return grid(x, y, z + 0 * x)


def _ball(centre: tuple[float, float, float], radius: float) -> _Piece:
    around, down = np.linspace(0, 2 * np.pi, 25)[None], np.linspace(0.01, np.pi - 0.01, 13)[:, None]
    x, y, z = np.sin(down) * np.cos(around), np.sin(down) * np.sin(around), np.cos(down) + 0 * around
    ball = grid(centre[0] + radius * x, centre[1] + radius * y, centre[2] + radius * z)
    outwards = np.stack([x, y, z], -1).reshape(-1, 3).astype(np.float32)
    return _Piece(ball.vertices, outwards, ball.faces)


def _join(pieces: list[_Piece], roots: np.ndarray, covers: np.ndarray) -> Hair:
    starts = np.cumsum([0] + [len(piece.vertices) for piece in pieces[:-1]])
    return Hair(
        np.concatenate([piece.vertices for piece in pieces]),
        np.concatenate([piece.normals for piece in pieces]),
        np.concatenate([piece.faces + start for piece, start in zip(pieces, starts, strict=True)]).astype(np.int32),
        roots.astype(np.float32),
        covers,
    )


def build_hair(kind: str, face: Float[np.ndarray, "v 3"], *, volume: float) -> Hair | None:
    """Hair of one of `appearance.HAIR_KINDS` for a face at rest; None when bald."""
    if kind == "bald":
        return None
    rest = load_head().mean
    x, y, z = rest.T
    crown = np.clip((z - 0.03) / 0.08, 0, 1)
    scalp = _scalp(rest, hairline=0.072, nape=-0.06)
    lumps = np.sin(x * 130 + 1) * np.sin(y * 120) * np.sin(z * 130 + 2)
    thickness = {
        "crop": 0.005 + 0 * x,
        "short": 0.008 + 0.008 * crown,
        "volume": 0.010 + 0.022 * crown * (1 + 0.3 * np.sin(x * 40)),
        "curly": 0.018 + 0.014 * crown + 0.006 * lumps,
        "bob": 0.012 + 0.008 * crown,
        "long": 0.010 + 0.008 * crown,
        "bun": 0.006 + 0.004 * crown,
        "mohawk": 0.003 + 0.045 * np.exp(-((x / 0.016) ** 2)) * crown,
        "beanie": 0.014 + 0.012 * crown,
    }[kind] * volume
    roots = scalp
    if kind == "beanie":
        scalp = np.clip((z - 0.040 + 0.12 * np.clip(y, 0, 0.2)) / 0.016, 0, 1)
        roots = np.zeros_like(scalp)
    lift = scalp * thickness
    pieces = [_shell(face, lift.astype(np.float32))]
    if kind == "bob":
        pieces.append(_drape(face, bottom=-0.10, volume=volume, opening=1.0))
    if kind == "long":
        pieces.append(_drape(face, bottom=-0.24, volume=volume, opening=1.0))
    if kind == "bun":
        pieces.append(_ball((0.0, 0.11, 0.125), 0.035 * volume))
    return _join(pieces, roots, lift > 2 * SUNK)
