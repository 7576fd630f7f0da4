"""The shape of a 3-D head: identities, facial actions, normals. Metres; x to image right, y backwards, z up.

The origin lies between the eyes of the average head. Data: MakeHuman, CC0 (see `build_asset`).
"""

from dataclasses import dataclass
from functools import cache
from pathlib import Path

import numpy as np
import scipy.sparse
import scipy.sparse.csgraph
from jaxtyping import Float, Int

from data.actions import ACTION_NAMES, index

ASSET = Path(__file__).with_name("head.npz")
PARTS = ("skin", "eye_left", "eye_right", "teeth_upper", "teeth_lower", "tongue", "lashes")

LIP_RING = 0.2  # vertices with more of the lips' mask than this separate the mouth from the face
TEETH_SHIFTS = {"teeth_upper": (0, -0.001, -0.007), "teeth_lower": (0, 0.004, 0)}  # metres: shown, and behind the lips
THROAT = (0.0, 0.05, -0.075)  # a place inside the mouth


@dataclass(frozen=True)
class Head:
    """The asset, decoded. Vertices belong to one part each; faces are triangles."""

    mean: Float[np.ndarray, "v 3"]
    components: Float[np.ndarray, "k v 3"]  # one standard deviation each
    actions: Float[np.ndarray, "52 v 3"]
    lips: Float[np.ndarray, "v"]  # 1 on the lips, soft border
    lids: Float[np.ndarray, "v"]
    cavity: Float[np.ndarray, "v"]  # 1 inside the mouth, where no light reaches
    faces: Int[np.ndarray, "t 3"]
    part: Int[np.ndarray, "v"]  # index into PARTS
    skin_faces: Int[np.ndarray, "s 3"]
    lip_upper: int  # vertices that meet when the mouth closes, in the middle of the lips
    lip_lower: int

    @property
    def num_vertices(self) -> int:
        return len(self.mean)


@cache
def load_head() -> Head:
    """Read the asset once per process, with its known flaw mended: lower teeth that poke through open lips.

    Raises:
        ValueError: the asset's actions are not ours: it was built by another version of `build_asset`.
    """
    data = np.load(ASSET)
    if tuple(data["action_names"]) != ACTION_NAMES:
        raise ValueError(f"{ASSET} has actions {list(data['action_names'])}, must have ACTION_NAMES. Rebuild it.")
    mean = data["mean"].astype(np.float32)
    part = np.zeros(len(mean), np.int32)
    faces = []
    for number, name in enumerate(PARTS):
        part[data[f"faces_{name}"]] = number
        faces.append(data[f"faces_{name}"].astype(np.int32))
    for name, shift in TEETH_SHIFTS.items():
        teeth = part == PARTS.index(name)
        centre = mean[teeth].mean(0)
        shrink = np.array([0.76, 0.88, 0.88], np.float32)
        mean[teeth] = centre + shrink * (mean[teeth] - centre) + np.array(shift, np.float32)
    actions = data["actions"].astype(np.float32)
    upper, lower = _lip_middles(mean, data["lips"].astype(np.float32), actions[index("jawOpen")])
    return Head(
        mean=mean,
        components=data["components"].astype(np.float32),
        actions=actions,
        lips=data["lips"].astype(np.float32),
        lids=data["lids"].astype(np.float32),
        cavity=_cavity(mean, data["lips"].astype(np.float32), faces[0]),
        faces=np.concatenate(faces),
        part=part,
        skin_faces=faces[0],
        lip_upper=upper,
        lip_lower=lower,
    )


def _lip_middles(mean: np.ndarray, lips: np.ndarray, jaw: np.ndarray) -> tuple[int, int]:
    middle = np.flatnonzero((lips > 0.5) & (np.abs(mean[:, 0]) < 0.002))
    drop = -jaw[middle, 2]
    moving = drop > 0.5 * drop.max()
    lower, upper = middle[moving], middle[~moving]
    return int(upper[mean[upper, 2].argmin()]), int(lower[mean[lower, 2].argmax()])


def _cavity(mean: np.ndarray, lips: np.ndarray, skin_faces: np.ndarray) -> np.ndarray:
    """1 on skin that the lips cut off from the rest of the skin; inner lips that lie behind the outer ones go dark too.

    Raises:
        ValueError: the lips are not a closed ring, so the asset cannot tell inside from outside.
    """
    edges = np.concatenate([skin_faces[:, [0, 1]], skin_faces[:, [1, 2]]])
    edges = edges[(lips[edges] < LIP_RING).all(1)]
    links = scipy.sparse.coo_matrix((np.ones(len(edges)), edges.T), (len(mean), len(mean)))
    _, label = scipy.sparse.csgraph.connected_components(links, directed=False)
    throat = skin_faces[np.abs(mean[skin_faces] - THROAT).sum(-1).argmin() // 3, 0]
    inside = label == label[throat]
    if inside[skin_faces[mean[skin_faces[:, 0], 2].argmax(), 0]]:
        raise ValueError(f"{ASSET}: the lips must separate the mouth from the face, and do not. Rebuild it.")
    near = np.flatnonzero((lips > 0) & (mean[:, 1] < 0.02))
    across = np.linalg.norm(mean[near, None][..., [0, 2]] - mean[None, near][..., [0, 2]], axis=-1)
    front = np.where(across < 0.006, mean[near, 1][None], np.inf).min(1)
    cavity = inside.astype(np.float32)
    cavity[near] = np.maximum(cavity[near], np.clip((mean[near, 1] - front - 0.006) / 0.004, 0, 1))
    return cavity


def neutral(coefficients: Float[np.ndarray, "k"]) -> Float[np.ndarray, "v 3"]:
    """A person's face at rest."""
    head = load_head()
    return head.mean + np.tensordot(coefficients.astype(np.float32), head.components, 1)


def animate(face: Float[np.ndarray, "v 3"], actions: Float[np.ndarray, "f 52"]) -> Float[np.ndarray, "f v 3"]:
    """The face under facial actions, one row of weights in [0, 1] per frame."""
    head = load_head()
    moved = actions.astype(np.float32) @ head.actions.reshape(len(head.actions), -1)
    return face + moved.reshape(-1, *face.shape)


def eyes_and_lips(face: Float[np.ndarray, "v 3"]) -> tuple[float, float]:
    """Heights of the middles of the eyes and of the closed lips, in metres."""
    head = load_head()
    eyes = np.isin(head.part, [PARTS.index("eye_left"), PARTS.index("eye_right")])
    return float(face[eyes, 2].mean()), float(face[[head.lip_upper, head.lip_lower], 2].mean())


def lip_gap(vertices: Float[np.ndarray, "f v 3"]) -> Float[np.ndarray, "f"]:
    """Height of the opening between the lips, in metres."""
    head = load_head()
    return vertices[:, head.lip_upper, 2] - vertices[:, head.lip_lower, 2]


def mouth_opening(face: Float[np.ndarray, "v 3"], actions: Float[np.ndarray, "f 52"]) -> Float[np.ndarray, "f"]:
    """Opening of the lips in [0, 1]: 0 at rest or pressed together, 1 with the jaw fully open."""
    wide = np.zeros((1, len(ACTION_NAMES)), np.float32)
    wide[0, index("jawOpen")] = 1
    rest = lip_gap(face[None])[0]
    most = lip_gap(animate(face, wide))[0] - rest
    return np.clip((lip_gap(animate(face, actions)) - rest) / most, 0, 1).astype(np.float32)


@cache
def _face_to_vertex() -> scipy.sparse.csr_matrix:
    head = load_head()
    t = len(head.faces)
    rows, columns = head.faces.ravel(), np.repeat(np.arange(t), 3)
    return scipy.sparse.csr_matrix((np.ones(3 * t, np.float32), (rows, columns)), (head.num_vertices, t))


def normals(vertices: Float[np.ndarray, "v 3"]) -> Float[np.ndarray, "v 3"]:
    """Unit normals, averaged over the triangles around each vertex, weighted by their area."""
    a, b, c = (vertices[load_head().faces[:, i]] for i in range(3))
    summed = _face_to_vertex() @ np.cross(b - a, c - a)
    return summed / np.maximum(np.linalg.norm(summed, axis=1, keepdims=True), 1e-9)
