"""Hair as strands: few guides that are combed over the body, many strands that follow them."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float
from scipy.spatial import KDTree

from data.portraits.mesh import Body

NEAR_METRES = 0.012  # over its layer: hair further out falls freely


@dataclass(frozen=True)
class Strands:
    """Polylines with equally many points; widths in metres at the root, colours linear."""

    points: Float[np.ndarray, "n k 3"]
    width: Float[np.ndarray, "n"]
    colour: Float[np.ndarray, "n 3"]


# Where hair wants to go: from places, the directions away from the body there (shorter further off) and the length
# that has grown, in metres.
Comb = Callable[[Float[np.ndarray, "n 3"], Float[np.ndarray, "n 3"], float], Float[np.ndarray, "n 3"]]


@dataclass(frozen=True)
class Growth:
    """How guides grow. Lengths in metres."""

    steps: int
    stiffness: float  # share of a step's direction that is the last one's
    height: float  # of the outermost layer over the skin
    rise: float  # over this length a strand reaches its layer


def unit(vectors: np.ndarray) -> np.ndarray:
    return vectors / np.maximum(np.linalg.norm(vectors, axis=-1, keepdims=True), 1e-9)


def grow(
    roots: Float[np.ndarray, "n 3"],
    first: Float[np.ndarray, "n 3"],
    length: Float[np.ndarray, "n"],
    layer: Float[np.ndarray, "n"],
    comb: Comb,
    growth: Growth,
    body: Body,
) -> Float[np.ndarray, "n k 3"]:
    """Guides from `roots` in direction `first`; `layer` in [0, 1] is how far out each lies."""
    place, direction = roots.copy(), unit(first)
    points = [place]
    step = length / growth.steps
    for number in range(1, growth.steps + 1):
        over, away = body.above(place)
        along = float(np.mean(length) * number / growth.steps)
        near = np.clip(1 - (over - growth.height * layer) / NEAR_METRES, 0, 1)
        wanted = unit(comb(place, near[:, None] * away, along))
        direction = unit(growth.stiffness * direction + (1 - growth.stiffness) * wanted)
        place = place + step[:, None] * direction
        over, away = body.above(place)
        least = 0.001 + growth.height * layer * np.clip(step * number / growth.rise, 0, 1)
        place = place + np.clip(least - over, 0, 0.006)[:, None] * away
        points.append(place)
    return np.stack(points, 1)


@dataclass(frozen=True)
class Follow:
    """How strands follow guides. Lengths in metres."""

    clump: float  # share by which a strand's tip joins its guide
    spread: float  # of the tips about the guides
    wave: float  # amplitude of waves at the tips
    wavelength: float
    frizz: float  # of every strand for itself
    shorter: float  # strands end up to this share before their guides


def follow(
    roots: Float[np.ndarray, "n 3"], guides: Float[np.ndarray, "g k 3"], how: Follow, rng: np.random.Generator
) -> Float[np.ndarray, "n k 3"]:
    """Strands from `roots`, each between the three nearest guides and clumped to the nearest."""
    found = KDTree(guides[:, 0]).query(roots, k=3)
    distance, nearest = np.asarray(found[0]), np.asarray(found[1])
    share = 1 / np.maximum(distance, 1e-4) ** 2
    share /= share.sum(1, keepdims=True)
    shapes = guides - guides[:, :1]
    shape = np.einsum("ng,ngkc->nkc", share, shapes[nearest])
    t = np.linspace(0, 1, guides.shape[1])[None, :, None]
    own = roots[:, None] + shape
    clump = guides[nearest[:, 0]]
    points = own + how.clump * t**1.2 * (clump - own)
    points = points + how.spread * t * rng.normal(size=(len(roots), 1, 3))
    arc = np.concatenate([[0], np.cumsum(np.linalg.norm(np.diff(guides, axis=1), axis=2).mean(0))])[None, :, None]
    phase = rng.uniform(0, 2 * np.pi, (len(guides), 1, 3))[nearest[:, 0]] + rng.normal(0, 0.35, (len(roots), 1, 3))
    swing = np.clip(arc / max(how.wavelength, 1e-3), 0, 1) * how.wave
    points = points + swing * np.sin(2 * np.pi * arc / how.wavelength + phase)
    bend = rng.normal(size=(len(roots), 3, 3))
    for order in range(3):
        points = points + how.frizz / (order + 1) * t * np.sin((order + 1) * 3 * t + 6 * bend[:, order, None])
    return _cut(points, 1 - how.shorter * rng.random(len(roots)))


def _cut(points: Float[np.ndarray, "n k 3"], kept: Float[np.ndarray, "n"]) -> Float[np.ndarray, "n k 3"]:
    """The first share of every polyline, with as many points as before."""
    k = points.shape[1]
    at = kept[:, None] * np.arange(k)[None]
    low = np.minimum(at.astype(int), k - 2)
    rows = np.arange(len(points))[:, None]
    return points[rows, low] + (at - low)[..., None] * (points[rows, low + 1] - points[rows, low])
