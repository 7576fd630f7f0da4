"""What a person wears on the head: hair, brows, lashes, a short beard."""

from dataclasses import dataclass

import numpy as np
import scipy.sparse as sparse
import scipy.sparse.csgraph as graphs
from jaxtyping import Float
from scipy.ndimage import map_coordinates

from data.characters.appearance import Colour
from data.characters.head import PARTS, load_head
from data.portraits.mesh import Body, Surface, scatter
from data.portraits.strands import Follow, Growth, Strands, follow, grow

RIGHT, BACK, UP = np.eye(3)


@dataclass(frozen=True)
class Head:
    """A posed head: its fine skin, where each vertex lies on the average head, its coarse vertices."""

    skin: Surface
    rest: Float[np.ndarray, "v 3"]
    coarse: Float[np.ndarray, "c 3"]
    body: Body  # what hair lies on, clothes included


def _rise(x: np.ndarray, low: float | np.ndarray, high: float | np.ndarray) -> np.ndarray:
    t = np.clip((x - low) / (high - low), 0, 1)
    return t * t * (3 - 2 * t)


def scalp(rest: Float[np.ndarray, "v 3"], hairline: float = 0.068) -> Float[np.ndarray, "v"]:
    """Density of hair: 1 on the scalp, soft towards forehead, temples, ears and nape."""
    x, y, z = np.abs(rest[:, 0]), rest[:, 1], rest[:, 2]
    front = z - (hairline - 0.006 * np.cos(x * 60) - 0.9 * np.clip(y - 0.012, 0, 0.05) - 0.35 * np.clip(x - 0.05, 0, 1))
    sideburn = np.minimum(z + 0.012, (y - 0.030) * 1.2)
    behind = np.minimum((y - 0.096) * 1.2, z + 0.062)
    ear = (x > 0.0755) & (z < 0.034) & (y < 0.10)
    return _rise(np.maximum(np.maximum(front, np.minimum(sideburn, 0.055 - x * 0)), behind), 0.0, 0.012) * ~ear


def _shades(colour: Colour, count: int, rng: np.random.Generator, spread: float = 0.16) -> Float[np.ndarray, "n 3"]:
    return np.array(colour) * np.exp(spread * rng.normal(size=(count, 1)) + 0.03 * rng.normal(size=(count, 3)))


def long_hair(head: Head, colour: Colour, *, part: float, hairline: float, seed: int) -> Strands:
    """Shoulder-long waves that fall from a parting at `part` metres to the right."""
    rng = np.random.default_rng(seed)
    density = scalp(head.rest, hairline)
    roots = scatter(head.skin, density, 1400, rng)
    place, normal, rest = (roots.read(a) for a in (head.skin.vertices, head.skin.normals, head.rest))
    crown = np.clip((rest[:, 1] - 0.10) / 0.05, 0, 1)
    side = np.where(rest[:, 0] > part * (1 - crown), 1.0, -1.0)[:, None]

    def comb(at: np.ndarray, away: np.ndarray, along: float) -> np.ndarray:
        on_skull = _rise(at[:, 2], -0.03, 0.03)[:, None]
        inner = _rise(side[:, 0] * at[:, 0], 0.078, 0.045)[:, None]
        front = _rise(at[:, 1], 0.050, 0.005)[:, None]
        wish = 0.85 * inner * on_skull * side * RIGHT - UP * (0.45 + 0.55 * (1 - inner)) + 1.0 * front * on_skull * BACK
        low = _rise(at[:, 2], -0.04, -0.12)[:, None]
        wish = wish - 0.12 * low * (1 - inner) * side * RIGHT
        inwards = np.minimum(np.einsum("nc,nc->n", wish, away), 0)[:, None]
        return wish - inwards * away * on_skull

    first = 0.9 * normal + 0.5 * side * RIGHT + 0.25 * UP + 0.35 * BACK
    layer = rng.random(len(place)) ** 0.8
    growth = Growth(steps=44, stiffness=0.5, height=0.014, rise=0.035)
    length = 0.35 * (1 - 0.10 * rng.random(len(place)))
    guides = grow(place, first, length, layer, comb, growth, head.body)
    many = scatter(head.skin, density, 42000, rng)
    how = Follow(clump=0.65, spread=0.003, wave=0.0085, wavelength=0.095, frizz=0.0012, shorter=0.15)
    strands = follow(many.read(head.skin.vertices), guides, how, rng)
    return Strands(strands, np.full(len(strands), 0.00020), _shades(colour, len(strands), rng))


def short_hair(head: Head, colour: Colour, *, top: float, sides: float, seed: int) -> Strands:
    """Short sides, a longer top that is combed up and over; lengths in metres."""
    rng = np.random.default_rng(seed)
    density = scalp(head.rest, hairline=0.070)
    roots = scatter(head.skin, density, 1600, rng)
    place, normal, rest = (roots.read(a) for a in (head.skin.vertices, head.skin.normals, head.rest))
    high = _rise(rest[:, 2] + 0.25 * np.clip(rest[:, 1], 0, 0.1), 0.062, 0.092)
    toss = np.array([0.5, 0.65, 0.05])

    def comb(at: np.ndarray, away: np.ndarray, along: float) -> np.ndarray:
        up = toss + (0.5 if along < 0.35 * top else -0.35) * away
        down = -0.9 * UP + 0.35 * BACK + 0.15 * away
        return high[:, None] * up + (1 - high[:, None]) * down

    first = normal + high[:, None] * (0.5 * UP - 0.25 * BACK) + (1 - high[:, None]) * (-0.8 * UP + 0.2 * BACK)
    length = (sides + high * (top - sides)) * (1 + 0.15 * rng.normal(size=len(place)))
    growth = Growth(steps=14, stiffness=0.6, height=0.008, rise=0.02)
    guides = grow(place, first, length, rng.random(len(place)) * high, comb, growth, head.body)
    many = scatter(head.skin, density, 46000, rng)
    how = Follow(clump=0.5, spread=0.0016, wave=0.0006, wavelength=0.03, frizz=0.0012, shorter=0.35)
    strands = follow(many.read(head.skin.vertices), guides, how, rng)
    return Strands(strands, np.full(len(strands), 0.00018), _shades(colour, len(strands), rng))


def brow_density(rest: Float[np.ndarray, "v 3"], thick: float) -> Float[np.ndarray, "v"]:
    side, z = np.abs(rest[:, 0]), rest[:, 2]
    arch = 0.0185 + 0.0045 * np.cos((side - 0.041) * 42)
    wide = thick * (0.0040 - 0.07 * np.clip(side - 0.036, 0, 1)) + 0.0006
    stroke = np.exp(-np.square((z - arch) / wide))
    return np.where(rest[:, 1] < 0.03, stroke * _rise(side, 0.0095, 0.019) * _rise(side, 0.060, 0.052), 0)


def brows(head: Head, colour: Colour, *, thick: float, seed: int) -> Strands:
    rng = np.random.default_rng(seed)
    roots = scatter(head.skin, brow_density(head.rest, thick) ** 1.3, round(1000 * thick), rng)
    place, normal, rest = (roots.read(a) for a in (head.skin.vertices, head.skin.normals, head.rest))
    sign, side = np.sign(rest[:, :1]), np.abs(rest[:, :1])
    arch = 0.0185 + 0.0045 * np.cos((side - 0.041) * 42)
    up = np.interp(side, [0.012, 0.022, 0.040, 0.058], [1.3, 0.55, 0.10, -0.35]) - 60 * (rest[:, 2:] - arch)
    direction = sign * RIGHT + up * UP + 0.16 * rng.normal(size=(len(place), 3))

    def comb(at: np.ndarray, away: np.ndarray, along: float) -> np.ndarray:
        return direction - (np.einsum("nc,nc->n", direction, away)[:, None] - 0.12) * away

    length = rng.uniform(0.0045, 0.0085, len(place)) * np.interp(side[:, 0], [0.01, 0.02, 0.06], [0.75, 1, 0.8])
    growth = Growth(steps=7, stiffness=0.3, height=0.0, rise=0.01)
    points = grow(place, direction + 0.5 * normal, length, np.zeros(len(place)), comb, growth, Body(head.skin))
    return Strands(points, np.full(len(points), 0.00012), _shades(colour, len(points), rng, 0.1))


def beard(head: Head, colour: Colour, *, length: float, count: int, seed: int) -> Strands:
    rng = np.random.default_rng(seed)
    roots = scatter(head.skin, beard_density(head.rest, np.zeros(len(head.rest))), count, rng)
    place, normal = (roots.read(a) for a in (head.skin.vertices, head.skin.normals))
    direction = 0.35 * normal - 0.9 * UP + 0.15 * np.sign(place[:, :1]) * RIGHT + 0.3 * rng.normal(size=(len(place), 3))

    def comb(at: np.ndarray, away: np.ndarray, along: float) -> np.ndarray:
        return direction - (np.minimum(np.einsum("nc,nc->n", direction, away), 0)[:, None] - 0.2) * away

    growth = Growth(steps=5, stiffness=0.5, height=0.0, rise=0.01)
    reach = length * rng.uniform(0.5, 1.2, len(place))
    points = grow(place, normal + direction, reach, np.zeros(len(place)), comb, growth, Body(head.skin))
    return Strands(points, np.full(len(points), 0.00012), _shades(colour, len(points), rng, 0.15))


def beard_density(rest: Float[np.ndarray, "v 3"], lips: Float[np.ndarray, "v"]) -> Float[np.ndarray, "v"]:
    """Moustache, chin and jaw, up to the sideburns."""
    x, y, z = np.abs(rest[:, 0]), rest[:, 1], rest[:, 2]
    border = -0.074 + 0.9 * np.clip(x - 0.028, 0, 0.03) + 0.9 * np.clip(y - 0.01, 0, 0.04)
    jaw = _rise(z, border + 0.006, border - 0.008) * _rise(z - 0.35 * y, -0.150, -0.132)
    moustache = np.exp(-np.square((z + 0.0545 + 0.25 * np.clip(x - 0.012, 0, 1)) / 0.0065)) * _rise(x, 0.034, 0.024)
    front = _rise(y, 0.075, 0.055)
    return front * np.maximum(jaw, moustache * (y < 0.01)) * (lips < 0.05)


def lashes(head: Head, *, seed: int) -> Strands:
    """Along the asset's sheets, which are grids of five rows."""
    rng, asset = np.random.default_rng(seed), load_head()
    faces = asset.faces[asset.part[asset.faces[:, 0]] == PARTS.index("lashes")]
    edges = np.concatenate([faces[:, [0, 1]], faces[:, [1, 2]]])
    links = sparse.coo_matrix((np.ones(len(edges)), edges.T), (asset.num_vertices, asset.num_vertices))
    _, sheet = graphs.connected_components(links, directed=False)
    made = []
    for number in np.unique(sheet[faces[:, 0]]):
        vertices = np.flatnonzero(sheet == number)
        eye = asset.mean[asset.part == PARTS.index("eye_left" if asset.mean[vertices, 0].mean() > 0 else "eye_right")]
        columns = vertices[asset.mean[vertices, 0].argsort()].reshape(-1, 5)
        away = np.linalg.norm(asset.mean[columns] - eye.mean(0), axis=2)
        grid = head.coarse[np.take_along_axis(columns, away.argsort(1), 1)]
        upper = len(columns) == 13
        count = 110 if upper else 60
        at = np.sort(rng.uniform(0.3, len(columns) - 1.3, count))
        reach = (1.0 if upper else 0.75) * rng.uniform(0.65, 1.1, count)
        row = np.linspace(0, 1, 8)[None] * 4 * reach[:, None]
        column = at[:, None] + rng.normal(0, 0.25, (count, 1)) * np.linspace(0, 1, 8)[None]
        made.append(
            np.stack([map_coordinates(grid[..., c], [column, row], order=2, mode="nearest") for c in range(3)], 2)
        )
    points = np.concatenate(made)
    return Strands(points, np.full(len(points), 0.00016), np.tile([[0.010, 0.006, 0.005]], (len(points), 1)))
