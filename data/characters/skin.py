"""The picture that is wrapped around a 3-D head: skin with brows, freckles and beard above, hair below.

Painted once per identity, so that a frame costs one texture read per pixel: on a software rasteriser the same noise
in the fragment shader took half of the time.
"""

import numpy as np
from jaxtyping import Float, UInt8
from scipy.ndimage import gaussian_filter

from data.characters.appearance import Identity

WIDTH, HEIGHT = 512, 256  # texels of each half: 1.3 x 1.6 mm on the face
BOTTOM, TOP = -0.28, 0.12  # heights that the skin's half covers, metres
AXIS_Y, RADIUS = 0.08, 0.10  # of the upright cylinder around the head; the face lies close to it
STRANDS = {"curly": (2.0, 2.0), "beanie": (0.8, 3.0)}  # size of hair noise down and across, texels
STRAIGHT = (24.0, 0.9)
# Below the hair, in texels that it does not reach, are two rows of teeth: gums, middles and edges, upper ones first.
ARCH_METRES = 0.14  # of a row, that the picture's width covers
ARCH_Y, ARCH_RADIUS = 0.03, 0.047  # of its bend
TEETH_MILLIMETRES = ((6.5, 5.0, 5.8, 5.2, 5.0, 9.0), (4.2, 4.6, 5.2, 5.2, 5.0, 9.0))  # widths, from the middle
TOOTH, GUM = (0.80, 0.75, 0.66), (0.42, 0.13, 0.12)


def skin_uv(rest: Float[np.ndarray, "v 3"]) -> Float[np.ndarray, "v 2"]:
    """Where vertices of the average head lie in the upper half; the seam is at the back."""
    x, y, z = rest.T
    across = 0.5 + np.arctan2(x, AXIS_Y - y) / (2 * np.pi)
    return np.stack([across, 0.5 + 0.5 * np.clip((z - BOTTOM) / (TOP - BOTTOM), 0, 1)], 1).astype(np.float32)


def hair_uv(vertices: Float[np.ndarray, "v 3"]) -> Float[np.ndarray, "v 2"]:
    """Where hair lies in the lower half: strands run down from the crown."""
    x, y, z = vertices.T
    down = np.arctan2(z, np.hypot(x, AXIS_Y - y))
    across = 0.5 + np.arctan2(x, AXIS_Y - y) / (2 * np.pi)
    return np.stack([across, 0.25 + 0.15 * down], 1).astype(np.float32)


def teeth_uv(rest: Float[np.ndarray, "v 3"], *, upper: bool) -> Float[np.ndarray, "v 2"]:
    """Where the teeth of the average head's upper or lower row lie: along the arch, from the gums to the edges."""
    x, y, z = rest.T
    across = np.arctan2(x, ARCH_Y - y) * ARCH_RADIUS / ARCH_METRES
    from_gums = np.abs(z - (z.max() if upper else z.min())) / np.ptp(z)
    row = 2 * from_gums + (0.5 if upper else 3.5)
    return np.stack([0.5 + across, row / (2 * HEIGHT)], 1).astype(np.float32)


def paint(who: Identity) -> UInt8[np.ndarray, "2*256 512 3"]:
    """Both halves, bottom row first as OpenGL wants; square roots of linear RGB, or dark skin would show steps."""
    picture = np.concatenate([_hair(who), _skin(who)])
    picture[:6] = _teeth()
    return np.round(255 * np.sqrt(np.clip(picture, 0, 1))).astype(np.uint8)


def _noise(rng: np.random.Generator, down: float, across: float) -> Float[np.ndarray, "256 512"]:
    """Smooth noise of mean 0 and deviation 1; sizes in texels. Wraps around the head."""
    field = gaussian_filter(rng.normal(size=(HEIGHT, WIDTH)).astype(np.float32), (down, across), mode="wrap")
    return (field - field.mean()) / field.std()


def _bump(x: np.ndarray, width: float) -> np.ndarray:
    return np.exp(-np.square(x / width))


def _rise(x: np.ndarray, low: float, high: float) -> np.ndarray:
    """Smooth step from 0 at `low` to 1 at `high`, which may be the smaller one."""
    t = np.clip((x - low) / (high - low), 0, 1)
    return t * t * (3 - 2 * t)


def _mix(picture: np.ndarray, colour: np.ndarray, amount: np.ndarray) -> np.ndarray:
    return picture + amount[..., None] * (colour - picture)


def _hair(who: Identity) -> Float[np.ndarray, "256 512 3"]:
    rng = np.random.default_rng((who.seed, 0x6861))
    colour = np.array(who.background[1] if who.hair_kind == "beanie" else who.hair)
    strand = _noise(rng, *STRANDS.get(who.hair_kind, STRAIGHT))
    lock = _noise(rng, 40.0, 6.0)
    return colour * np.clip(0.9 + 0.2 * strand + 0.1 * lock, 0.35, 1.7)[..., None]


def _teeth() -> Float[np.ndarray, "6 512 3"]:
    """Both rows; the light that does not come out between two teeth makes them single."""
    along = np.minimum(np.abs(np.linspace(-0.5, 0.5, WIDTH)) * ARCH_METRES * 1000, 30)
    rows = []
    for widths in TEETH_MILLIMETRES:
        gaps = np.concatenate([[0], np.cumsum(widths)])
        near = np.abs(along[:, None] - gaps).min(1)
        tooth = np.array(TOOTH) * (1 - 0.55 * _bump(near, 0.45) - 0.012 * along)[:, None]
        gum = np.array(GUM) + 0.3 * _rise(near, 0.5, 2.0)[:, None] * (tooth - GUM)  # it reaches down between the teeth
        rows += [gum, tooth, 0.92 * tooth]
    return np.stack(rows)


def _skin(who: Identity) -> Float[np.ndarray, "256 512 3"]:
    rng = np.random.default_rng((who.seed, 0x736B))
    angle = np.linspace(-np.pi, np.pi, WIDTH)[None]
    x, z = RADIUS * np.sin(angle), np.linspace(BOTTOM, TOP, HEIGHT)[:, None]
    front = _rise(np.cos(angle), 0.1, 0.5)
    side = np.abs(x)
    skin = np.array(who.skin)
    shade = 1 + 0.035 * _noise(rng, 9.0, 9.0) + 0.015 * _noise(rng, 1.5, 1.5)
    picture = skin * shade[..., None]
    cheek = front * _bump(side - 0.045, 0.022) * _bump(z + 0.045, 0.022)
    nose = front * _bump(x, 0.012) * _bump(z + 0.042, 0.012)
    picture = _mix(picture, skin * (1.12, 0.82, 0.80), 0.55 * cheek + 0.35 * nose)
    spots = gaussian_filter((rng.random((HEIGHT, WIDTH)) > 0.975).astype(np.float32), 0.7)
    picture *= (1 - np.clip(2.2 * who.freckles * spots * (cheek + nose + 0.25 * front), 0, 0.6))[..., None]
    fine = _noise(rng, 1.5, 0.6)
    picture = _mix(picture, np.array(who.brow) * 1.2 + 0.12 * skin, _beard(x, z, front, fine) * who.beard)
    return _mix(picture, np.array(who.brow), _brows(side, z, front, fine))


def _beard(x: np.ndarray, z: np.ndarray, front: np.ndarray, fine: np.ndarray) -> np.ndarray:
    jaw = _rise(z, -0.052, -0.078) * _rise(z, -0.165, -0.13)
    moustache = _bump(z + 0.054, 0.006) * _bump(x, 0.028)
    return front * np.clip(np.maximum(jaw, moustache) * (0.85 + 0.12 * fine), 0, 0.9)


def _brows(side: np.ndarray, z: np.ndarray, front: np.ndarray, fine: np.ndarray) -> np.ndarray:
    """Two arches that grow thinner outwards."""
    arch = 0.0205 + 0.006 * np.cos((side - 0.036) * 45)
    stroke = np.exp(-np.square((z - arch) / (0.0045 - 0.045 * np.maximum(side - 0.038, 0))))
    ends = _rise(side, 0.011, 0.018) * _rise(side, 0.058, 0.050)
    return (front > 0.5) * np.clip(stroke * ends * (1.1 + 0.12 * fine), 0, 0.92)
