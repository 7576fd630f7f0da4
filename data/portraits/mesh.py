"""Smooth surfaces: Loop subdivision, points spread over a surface, and how far a place is from it."""

from dataclasses import dataclass
from typing import Any

import numpy as np
import scipy.sparse as sparse
from jaxtyping import Float, Int
from scipy.spatial import KDTree


def subdivision(faces: Int[np.ndarray, "t 3"], num_vertices: int) -> tuple[Any, Int[np.ndarray, "t4 3"]]:
    """One step: the matrix that makes the new vertices (and their attributes) from the old, and the new triangles.

    Source: Loop 1987, with Warren's weights for the old vertices.
    """
    half = np.sort(np.concatenate([faces[:, [0, 1]], faces[:, [1, 2]], faces[:, [2, 0]]]), axis=1)
    opposite = np.concatenate([faces[:, 2], faces[:, 0], faces[:, 1]])
    edges, edge, count = np.unique(half, axis=0, return_inverse=True, return_counts=True)
    edge, inner = edge.ravel(), count == 2
    number = np.arange(len(edges))
    ends = np.where(inner, 3 / 8, 1 / 2)
    across = inner[edge]
    new = sparse.coo_matrix(
        (
            np.concatenate([ends, ends, np.full(across.sum(), 1 / 8)]),
            (np.concatenate([number, number, edge[across]]), np.concatenate([*edges.T, opposite[across]])),
        ),
        (len(edges), num_vertices),
    )
    old = _smoothed(edges, inner, num_vertices)
    a, b, c = num_vertices + edge.reshape(3, -1)
    i, j, k = faces.T
    parts = [np.stack(corner, 1) for corner in ((i, a, c), (a, j, b), (c, b, k), (a, b, c))]
    return sparse.vstack([old, new]).tocsr(), np.concatenate(parts)


def _smoothed(edges: np.ndarray, inner: np.ndarray, num_vertices: int) -> Any:
    """Weights of the old vertices: of all neighbours inside, of those along the border there."""

    def links(of: np.ndarray) -> Any:
        ends = np.concatenate([of, of[:, ::-1]])
        return sparse.coo_matrix((np.ones(len(ends)), ends.T), (num_vertices, num_vertices)).tocsr()

    border = links(edges[~inner])
    on_border = np.asarray(border.sum(1)).ravel() > 0
    around = links(edges)
    count = np.maximum(np.asarray(around.sum(1)).ravel(), 1)
    each = np.where(on_border, 1 / 8, np.where(count == 3, 3 / 16, 3 / (8 * count)))
    total = each * np.where(on_border, np.asarray(border.sum(1)).ravel(), count)
    chosen = sparse.diags(on_border.astype(float)) @ border + sparse.diags((~on_border).astype(float)) @ around
    return (sparse.diags(each) @ chosen + sparse.diags(1 - total)).tocsr()


@dataclass(frozen=True)
class Surface:
    """Triangles with unit normals."""

    vertices: Float[np.ndarray, "v 3"]
    normals: Float[np.ndarray, "v 3"]
    faces: Int[np.ndarray, "t 3"]

    @classmethod
    def of(cls, vertices: Float[np.ndarray, "v 3"], faces: Int[np.ndarray, "t 3"]) -> "Surface":
        a, b, c = (vertices[faces[:, i]] for i in range(3))
        flat = np.cross(b - a, c - a)
        summed = np.zeros_like(vertices)
        for i in range(3):
            np.add.at(summed, faces[:, i], flat)
        return cls(vertices, summed / np.maximum(np.linalg.norm(summed, axis=1, keepdims=True), 1e-12), faces)


@dataclass(frozen=True)
class Roots:
    """Places on a surface: corners of a triangle with their shares."""

    corners: Int[np.ndarray, "n 3"]
    shares: Float[np.ndarray, "n 3"]

    def read(self, attribute: np.ndarray) -> np.ndarray:
        """A vertex attribute at the places."""
        return np.einsum("nk,nk...->n...", self.shares, attribute[self.corners])


def scatter(surface: Surface, density: Float[np.ndarray, "v"], count: int, rng: np.random.Generator) -> Roots:
    """`count` places, as many per area as `density` says."""
    a, b, c = (surface.vertices[surface.faces[:, i]] for i in range(3))
    area = np.linalg.norm(np.cross(b - a, c - a), axis=1) * density[surface.faces].mean(1)
    chosen = surface.faces[rng.choice(len(area), count, p=area / area.sum())]
    u, v = rng.random((2, count))
    flip = u + v > 1
    u, v = np.where(flip, 1 - u, u), np.where(flip, 1 - v, v)
    return Roots(chosen, np.stack([1 - u - v, u, v], 1))


class Body:
    """What hair must not enter: a surface that is asked for the nearest vertex."""

    def __init__(self, surface: Surface) -> None:
        self.surface, self.tree = surface, KDTree(surface.vertices)

    def above(self, places: Float[np.ndarray, "n 3"]) -> tuple[Float[np.ndarray, "n"], Float[np.ndarray, "n 3"]]:
        """Height over the surface in metres, negative inside, and the direction away from it."""
        _, nearest = self.tree.query(places, workers=1)
        normal = self.surface.normals[nearest]
        return np.einsum("nc,nc->n", places - self.surface.vertices[nearest], normal), normal
