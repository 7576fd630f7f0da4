"""Exact motion against brute force: projection of vertices, rays, and pictures that are warped by it."""

import cv2
import numpy as np
import pytest
from scipy.ndimage import distance_transform_edt

from data.actions import ACTION_NAMES, index
from data.characters.exact_flow import BACKGROUND, DEPTH_TOLERANCE, GRID, Motion, MotionRenderer
from data.characters.head import PARTS, animate, eyes_and_lips, load_head, normals
from data.characters.renderer import CAMERA_METRES, CENTRED, NECK, Framing, Renderer, identity, turn_matrix
from data.characters.scene import _follow, _surface_faces
from data.characters.sketch import sketch
from gwm.media.face import EYES_AT, MOUTH_AT

FRAMING = Framing(right=0.03, down=-0.02, zoom=1.1)
WHO = identity(7, "anny")
POSE, OWN = np.array([[0.2, -0.08, 0.05]]), np.array([-0.1, 0.04, 0.0])


@pytest.fixture(scope="module")
def drawer() -> MotionRenderer:
    return MotionRenderer(Renderer(128))


def face_of(drawer: MotionRenderer) -> np.ndarray:
    """Of WHO: a scene that was not drawn lately makes buffers, which need a current context."""
    with drawer.renderer.context:
        return drawer.renderer.scene_of(WHO).face


def acting() -> np.ndarray:
    actions = np.zeros((1, len(ACTION_NAMES)), np.float32)
    actions[0, [index("jawOpen"), index("mouthSmileLeft")]] = 0.5, 0.6
    return actions


@pytest.fixture(scope="module")
def motion(drawer: MotionRenderer) -> Motion:
    drawer.renderer.framing = FRAMING
    try:
        return drawer.render(WHO, acting(), POSE, np.zeros((1, 2)), OWN)
    finally:
        drawer.renderer.framing = CENTRED


def in_camera(vertices: np.ndarray, face: np.ndarray, pose: np.ndarray) -> np.ndarray:
    """Right, up, distance in metres: the head's vertices before a camera at the origin; written without the shaders."""
    head = load_head()
    share = np.where(head.part == PARTS.index("skin"), _follow(head.mean), 1.0)[:, None]
    eyes, mouth = eyes_and_lips(face)
    middle = np.array([0, 0, eyes - (0.5 - EYES_AT) * (eyes - mouth) / (MOUTH_AT - EYES_AT)])
    away = vertices - NECK
    moved = away + share * (away @ turn_matrix(*pose).T - away) + NECK - middle
    return np.stack([moved[:, 0], moved[:, 2], moved[:, 1] + CAMERA_METRES], 1)


def in_cells(points: np.ndarray, face: np.ndarray) -> np.ndarray:
    """Column and row of the grid, counted from the middle of the first cell."""
    eyes, mouth = eyes_and_lips(face)
    height = (eyes - mouth) / (MOUTH_AT - EYES_AT)
    focal = FRAMING.zoom * CAMERA_METRES / height
    x = 0.5 + FRAMING.right + focal * points[:, 0] / points[:, 2]
    y = 0.5 + FRAMING.down - focal * points[:, 1] / points[:, 2]
    return np.stack([x, y], 1) * GRID - 0.5


def test_flow_is_the_projection_of_the_vertices(drawer: MotionRenderer, motion: Motion):
    """Of vertices in the middle of the face that look at the camera, to a tenth of a cell."""
    face = face_of(drawer)
    x, y, z = load_head().mean.T
    towards = -(normals(animate(face, acting())[0]) @ turn_matrix(*POSE[0]).T)[:, 1]
    cheek = (load_head().part == 0) & (np.abs(x) < 0.05) & (y < 0.01) & (z < -0.015) & (z > -0.05) & (towards > 0.6)
    now = in_cells(in_camera(animate(face, acting())[0], face, POSE[0]), face)[cheek]
    then = in_cells(in_camera(face, face, OWN), face)[cheek]
    flow = motion.flow[0].astype(np.float32)
    read = np.stack([cv2.remap(flow[..., c], *np.float32(now).T[..., None], cv2.INTER_LINEAR)[:, 0] for c in (0, 1)], 1)
    error = np.abs(read - (then - now)).max(1)
    assert cheek.sum() > 50 and np.abs(then - now).max() > 2
    assert np.median(error) < 0.05 and np.quantile(error, 0.75) < 0.12  # some are behind the nose


def test_visibility_is_that_of_rays_to_the_reference_s_camera(drawer: MotionRenderer, motion: Motion):
    """A point is shown when no triangle of the reference lies clearly before it."""
    face = face_of(drawer)
    solid, _ = _surface_faces(None, None)
    corners = in_camera(face, face, OWN)[solid]
    cells = np.argwhere(motion.label[0] == 1)[::37]
    places = cells[:, ::-1] + motion.flow[0][tuple(cells.T)].astype(float)
    inside = (np.abs(places - GRID / 2) < 26).all(1) & (cells[:, 0] > 20)  # below the hair, which is not asked
    eyes, mouth = eyes_and_lips(face)
    focal = FRAMING.zoom * CAMERA_METRES / ((eyes - mouth) / (MOUTH_AT - EYES_AT))
    agree = []
    for (row, column), (x, y) in zip(cells[inside], places[inside], strict=True):
        right, down = (x + 0.5) / GRID - 0.5 - FRAMING.right, (y + 0.5) / GRID - 0.5 - FRAMING.down
        nearest = nearest_hit(np.array([right / focal, -down / focal, 1.0]), corners)
        hidden = nearest < point_distance(drawer, face, row, column) - 2 * DEPTH_TOLERANCE
        agree.append(bool(motion.visible[0, row, column]) != hidden)
    assert len(agree) > 20 and np.mean(agree) > 0.93


def nearest_hit(ray: np.ndarray, corners: np.ndarray) -> float:
    """Distance along the optical axis of the first triangle. Source: Moeller and Trumbore 1997."""
    a, first, second = corners[:, 0], corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0]
    across = np.cross(ray, second)
    scale = (first * across).sum(1)
    with np.errstate(all="ignore"):
        u = -(a * across).sum(1) / scale
        beside = np.cross(-a, first)
        v, t = (ray * beside).sum(1) / scale, (second * beside).sum(1) / scale
    hit = (u >= 0) & (v >= 0) & (u + v <= 1) & (t > 0)
    return float(t[hit].min(initial=np.inf))


def point_distance(drawer: MotionRenderer, face: np.ndarray, row: int, column: int) -> float:
    """Distance in the reference of what the picture shows in a cell: where the first triangle's corners lie there."""
    solid, _ = _surface_faces(None, None)
    now = in_camera(animate(face, acting())[0], face, POSE[0])[solid]
    then = in_camera(face, face, OWN)[solid]
    flat = in_cells(now.reshape(-1, 3), face).reshape(-1, 3, 2)
    a, first, second = flat[:, 0], flat[:, 1] - flat[:, 0], flat[:, 2] - flat[:, 0]
    away = np.array([column, row]) - a
    area = first[:, 0] * second[:, 1] - first[:, 1] * second[:, 0]
    with np.errstate(all="ignore"):
        u = (away[:, 0] * second[:, 1] - away[:, 1] * second[:, 0]) / area
        v = (first[:, 0] * away[:, 1] - first[:, 1] * away[:, 0]) / area
    weight = np.stack([1 - u - v, u, v], 1)
    depth = np.where((weight >= 0).all(1), (weight * now[..., 2]).sum(1), np.inf)
    k = int(depth.argmin())
    return float((weight[k] * then[k, :, 2]).sum())


def test_the_person_s_flow_goes_on_over_the_background(motion: Motion):
    person = motion.label[0] != BACKGROUND
    _, (rows, columns) = distance_transform_edt(~person, return_indices=True)
    away = np.abs(motion.flow[0][rows, columns].astype(float) - motion.flow[0]).max(-1)
    assert 0.1 < (~person).mean() and np.mean(away < 0.7) > 0.98  # ties between two nearest cells may fall otherwise


def test_the_reference_warped_by_the_flow_is_the_picture(motion: Motion):
    large = cv2.resize(motion.flow[0].astype(np.float32), (128, 128)) * 2
    y, x = np.mgrid[0:128, 0:128].astype(np.float32)
    warped = cv2.remap(motion.reference, x + large[..., 0], y + large[..., 1], cv2.INTER_LINEAR).astype(int)
    shown = np.kron(motion.visible[0] & (motion.label[0] != BACKGROUND), np.ones((2, 2), bool))
    still, moved = (np.abs(a - motion.frames[0].astype(int))[shown].mean() for a in (motion.reference, warped))
    assert moved < 0.6 * still  # light and shade turn with the head


@pytest.mark.parametrize("who", [sketch(3), identity(3, "clay")], ids=["sketch", "published"])
def test_a_drawn_head_moves_as_its_flow_says(drawer: MotionRenderer, who):
    """No action: then nothing is drawn anew, and warping explains the whole picture."""
    rest = np.zeros((1, len(ACTION_NAMES)), np.float32)
    motion = drawer.render(who, rest, np.array([[0.15, 0.1, 0.12]]), np.zeros((1, 2)), np.array([-0.1, 0.0, -0.05]))
    large = cv2.resize(motion.flow[0].astype(np.float32), (128, 128)) * 2
    y, x = np.mgrid[0:128, 0:128].astype(np.float32)
    warped = cv2.remap(motion.reference, x + large[..., 0], y + large[..., 1], cv2.INTER_LINEAR).astype(int)
    inside = np.kron((motion.label[0] != BACKGROUND) & motion.visible[0], np.ones((2, 2), bool))
    still, moved = (np.abs(a - motion.frames[0].astype(int))[inside].mean() for a in (motion.reference, warped))
    assert moved < 0.2 * still


def test_shoulders_stay_when_the_head_turns(drawer: MotionRenderer):
    rest = np.zeros((2, len(ACTION_NAMES)), np.float32)
    frames = drawer.renderer.render(identity(0, "anny"), rest, np.array([[0, 0, 0], [0.3, 0, 0]]), np.zeros((2, 2)))
    change = np.abs(np.diff(frames.astype(int), axis=0))[0].mean(-1)
    assert change[-6:].mean() < 0.15 * change[30:90].mean()
