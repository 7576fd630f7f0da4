"""Procedural hair: a shell over the scalp, and for some kinds a drape or a knot. The asset's own hides the face."""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Int

from data.characters.head import load_head, normals


@dataclass(frozen=True)
class Hair:
    """Vertices in the frame of the head at rest, which move with it rigidly."""

    vertices: Float[np.ndarray, "v 3"]
    normals: Float[np.ndarray, "v 3"]
    faces: Int[np.ndarray, "t 3"]
    colour_shift: Float[np.ndarray, "v"]  # brightness factor: strands


def _scalp(rest: np.ndarray, *, hairline: float, nape: float) -> np.ndarray:
    """1 on the scalp of the average head, falling to 0 over a soft border; hairline and nape are heights in metres."""
    x, y, z = rest.T
    front = z - (hairline - 0.25 * np.clip(y, 0, 0.05) - 0.012 * np.cos(x * 45))
    behind_ear = np.minimum((y - 0.085) * 1.2, z - nape)
    over_ear = np.minimum(z - 0.02, (y - 0.035) * 1.5)
    depth = np.maximum(np.maximum(front, behind_ear), over_ear)
    return np.clip(depth / 0.012, 0, 1)


def _shell(face: np.ndarray, thickness: np.ndarray, strands: np.ndarray) -> Hair:
    """The skin's faces where `thickness` is positive, lifted along their normals."""
    head = load_head()
    faces = head.skin_faces[(thickness[head.skin_faces] > 1e-4).any(1)]
    used = np.unique(faces)
    index = np.zeros(head.num_vertices, np.int32)
    index[used] = np.arange(len(used))
    normal = normals(face)
    lifted = face + normal * (thickness[:, None] - 0.002)
    return Hair(lifted[used], normal[used], index[faces], strands[used])


def _grid_faces(rows: int, columns: int) -> np.ndarray:
    a = (np.arange(rows - 1)[:, None] * columns + np.arange(columns - 1)).ravel()
    return np.concatenate([np.stack([a, a + 1, a + columns], 1), np.stack([a + 1, a + columns + 1, a + columns], 1)])


def _drape(face: np.ndarray, *, bottom: float, volume: float, opening: float) -> Hair:
    """A curtain around the back and sides of the head, open towards the face by `opening` radians on each side."""
    side = np.abs(face[:, 0][face[:, 2] > 0]).max() + 0.008
    columns, rows = 33, 14
    angle = np.linspace(-np.pi + opening, np.pi - opening, columns)
    height = np.linspace(0.075, bottom, rows)
    widen = 1 + 0.14 * volume * np.linspace(0, 1, rows) ** 0.7
    widen[0] = 0.86
    wave = 1 + 0.025 * np.sin(9 * angle)[None] * np.linspace(0.3, 1, rows)[:, None]
    x = side * np.sin(angle)[None] * widen[:, None] * wave
    y = 0.085 + 0.115 * np.cos(angle)[None] * widen[:, None] * wave
    z = np.broadcast_to(height[:, None], x.shape)
    normal = np.stack([np.sin(angle)[None] * np.ones_like(x), np.cos(angle)[None] * np.ones_like(x), 0.2 + 0 * x], -1)
    strands = 0.8 + 0.35 * np.sin(57 * angle + 3 * np.sin(23 * angle))[None] * np.ones_like(x)
    flat = np.stack([x, y, z], -1).reshape(-1, 3).astype(np.float32)
    normal = (normal / np.linalg.norm(normal, axis=-1, keepdims=True)).reshape(-1, 3).astype(np.float32)
    return Hair(flat, normal, _grid_faces(rows, columns), strands.ravel().astype(np.float32))


def _ball(centre: tuple[float, float, float], radius: float) -> Hair:
    columns, rows = 25, 13
    around, down = np.linspace(0, 2 * np.pi, columns), np.linspace(0, np.pi, rows)
    normal = np.stack(
        [
            np.sin(down)[:, None] * np.cos(around),
            np.sin(down)[:, None] * np.sin(around),
            np.cos(down)[:, None] + 0 * around,
        ],
        -1,
    ).reshape(-1, 3)
    strands = 0.85 + 0.3 * np.sin(6 * normal[:, 0] * 8 + normal[:, 2] * 30)
    vertices = np.asarray(centre) + radius * normal
    return Hair(
        vertices.astype(np.float32), normal.astype(np.float32), _grid_faces(rows, columns), strands.astype(np.float32)
    )


def _join(parts: list[Hair]) -> Hair:
    starts = np.cumsum([0] + [len(part.vertices) for part in parts[:-1]])
    return Hair(
        np.concatenate([part.vertices for part in parts]),
        np.concatenate([part.normals for part in parts]),
        np.concatenate([part.faces + start for part, start in zip(parts, starts, strict=True)]).astype(np.int32),
        np.concatenate([part.colour_shift for part in parts]),
    )


def build_hair(kind: str, face: Float[np.ndarray, "v 3"], *, volume: float) -> Hair | None:
    """Hair of one of `appearance.HAIR_KINDS` for a face at rest; None when bald."""
    if kind == "bald":
        return None
    rest = load_head().mean
    x, y, z = rest.T
    crown = np.clip((z - 0.03) / 0.08, 0, 1)
    strands = 0.85 + 0.25 * np.sin(x * 900 + 2 * np.sin(y * 300)) * np.cos(z * 130)
    scalp = _scalp(rest, hairline=0.072, nape=-0.06)
    lumps = np.sin(x * 210 + 1) * np.sin(y * 190) * np.sin(z * 200 + 2)
    thickness = {
        "crop": 0.004 + 0 * x,
        "short": 0.008 + 0.008 * crown,
        "volume": 0.010 + 0.028 * crown * (1 + 0.3 * np.sin(x * 40)),
        "curly": 0.020 + 0.014 * crown + 0.009 * lumps,
        "bob": 0.012 + 0.008 * crown,
        "long": 0.010 + 0.008 * crown,
        "bun": 0.006 + 0.004 * crown,
        "mohawk": 0.003 + 0.045 * np.exp(-((x / 0.016) ** 2)) * crown,
        "beanie": 0.014 + 0.012 * crown + 0.0015 * np.sin(x * 500),
    }[kind] * volume
    if kind == "beanie":
        scalp = np.clip((z - 0.045 + 0.12 * np.clip(y, 0, 0.2)) / 0.006, 0, 1)
        strands = 0.9 + 0.2 * np.sin(np.arctan2(x, y - 0.08) * 60)
    parts = [_shell(face, (scalp * thickness).astype(np.float32), strands.astype(np.float32))]
    if kind == "bob":
        parts.append(_drape(face, bottom=-0.09, volume=volume, opening=1.0))
    if kind == "long":
        parts.append(_drape(face, bottom=-0.24, volume=volume, opening=1.1))
    if kind == "bun":
        parts.append(_ball((0.0, 0.11, 0.125), 0.035 * volume))
    return _join(parts)
