"""Portraits: light against closed forms, hair outside of what it grows on, and the pictures that ship."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from scipy.spatial import ConvexHull

from data.portraits.__main__ import DRAWINGS, NAMES, check, drawing, photograph
from data.portraits.cast import PEOPLE
from data.portraits.develop import SCATTER, scattered, tones
from data.portraits.mesh import Body, Surface, scatter, subdivision
from data.portraits.strands import Growth, grow
from data.portraits.studio import Camera, Lights, Shape, Studio, dome
from gwm.media.face import FaceMesh
from gwm.metrics.face_track import face_track, lip_gap

SHIPPED = Path(__file__).parents[2] / "serve/live/characters"
SIDE = 1024
PAINT = {"skin": (0.5, 0.5, 0.5), "lips": (0.5, 0.5, 0.5), "hair": (0.5, 0.5, 0.5), "freckles": 0.0}


def ball(middle: tuple[float, float, float], radius: float) -> Surface:
    """Points spread over a sphere, in the head's axes."""
    points = middle + radius * dome(np.zeros(3), np.zeros(3), 1500).towards
    faces = ConvexHull(points).simplices
    a, b, c = (points[faces[:, i]] for i in range(3))
    turned = np.einsum("nc,nc->n", np.cross(b - a, c - a), a - middle) < 0
    return Surface.of(points, np.where(turned[:, None], faces[:, ::-1], faces))


def shape(kind: str, surface: Surface, colours: dict) -> Shape:
    n = len(surface.vertices)
    return Shape(
        kind, surface, surface.vertices - surface.vertices.mean(0), np.zeros((n, 4)), np.zeros((n, 2)), colours
    )


@pytest.fixture(scope="module")
def studio() -> Studio:
    return Studio(64)


@pytest.mark.parametrize("name", NAMES)
def test_a_shipped_portrait_is_large_and_light_and_shows_a_face_at_rest(name: str):
    path = SHIPPED / f"{name}.jpg"
    picture = np.asarray(Image.open(path))
    assert picture.shape == (SIDE, SIDE, 3) and path.stat().st_size <= 150_000
    points = FaceMesh().landmarks(picture)
    assert points is not None
    eyes, mouth = points[[33, 133, 362, 263], :2].mean(0), points[[13, 14, 61, 291], :2].mean(0)
    assert np.abs(np.array([eyes[0], mouth[0]]) - SIDE / 2).max() < 0.03 * SIDE  # looks straight ahead
    assert 0.4 * SIDE < eyes[1] < 0.55 * SIDE < mouth[1] < 0.7 * SIDE
    assert lip_gap(face_track(picture[None], FaceMesh()))[0] < 0.05


@pytest.mark.parametrize("name", DRAWINGS)
def test_a_shipped_drawing_is_what_the_command_draws(name: str):
    shipped = np.asarray(Image.open(SHIPPED / f"{name}.jpg")).astype(int)
    assert np.abs(drawing(name, SIDE) - shipped).mean() < 2  # JPEG


@pytest.mark.slow
@pytest.mark.parametrize("name", PEOPLE)
def test_a_shipped_person_is_who_the_command_photographs(name: str):
    """With an eighth of the light's samples and at an eighth of the size: colours agree within the grain of shadows."""
    small = 128
    made = photograph(PEOPLE[name], size=small, lamps=1 / 8).astype(int)
    away = {}
    for other in PEOPLE:
        shipped = Image.open(SHIPPED / f"{other}.jpg").resize((small, small), Image.Resampling.BOX)
        away[other] = np.abs(made - np.asarray(shipped).astype(int)).mean()
    assert away[name] < 5 and min(away[other] for other in PEOPLE if other != name) > 4 * away[name]


@pytest.mark.parametrize(
    ("names", "size", "lamps", "rule"),
    [
        (["max"], 512, 1.0, r"names=\['max'\] must be of \['noa', 'pip', 'sam'\]"),
        (["noa"], 4096, 1.0, r"size=4096 must be in \[64, 2048\]"),
        (["noa"], 512, 0.0, r"lamps=0.0 must be in \[0.1, 10\]"),
    ],
)
def test_wrong_settings_are_named(names: list[str], size: int, lamps: float, rule: str):
    with pytest.raises(ValueError, match=rule):
        check(names, size, lamps)


def test_a_subdivided_plane_stays_the_plane_and_a_ball_grows_round():
    """Affine invariance inside a regular mesh; of a ball, the spread of radii shrinks."""
    x, y = np.meshgrid(np.arange(5.0), np.arange(5.0))
    corner = (np.arange(4)[:, None] * 5 + np.arange(4)).ravel()[:, None]
    faces = np.concatenate([corner + np.array(ends) for ends in ((0, 1, 5), (1, 6, 5))])
    step, finer = subdivision(faces, 25)
    assert len(finer) == 4 * len(faces) and np.allclose(step.sum(1), 1)
    place = np.stack([x.ravel(), y.ravel()], 1)
    inner = np.array([6, 7, 8, 11, 12, 13, 16, 17, 18])
    assert np.allclose((step @ place)[inner], place[inner])
    octahedron = np.concatenate([np.eye(3), -np.eye(3)])
    sides = ConvexHull(octahedron).simplices
    once, sides = subdivision(sides, 6)
    twice, sides = subdivision(sides, once.shape[0])
    first = once @ octahedron
    spread = [
        np.ptp(np.linalg.norm(points, axis=1)) / np.linalg.norm(points, axis=1).mean()
        for points in (first, twice @ first)
    ]
    assert len(sides) == 128 and spread[0] < 0.2  # of flat triangles cut in four it would be 0.34


def test_places_are_spread_by_area_and_density():
    """Two triangles of areas 1 and 3 with densities 2 and 1: two places in five lie on the first."""
    vertices = np.array([[0, 0, 0], [2, 0, 0], [0, 1, 0], [9, 0, 0], [12, 0, 0], [9, 2, 0]], float)
    surface = Surface.of(vertices, np.array([[0, 1, 2], [3, 4, 5]]))
    roots = scatter(surface, np.array([2.0, 2, 2, 1, 1, 1]), 20000, np.random.default_rng(0))
    x, y, _ = roots.read(vertices).T
    assert (x < 5).mean() == pytest.approx(0.4, abs=0.02)
    assert np.all(y >= 0) and np.all((x + 2 * y <= 2 + 1e-9) | (x >= 9))


def test_hair_that_is_combed_into_the_skin_lies_on_it():
    surface = ball((0, 0, 0), 0.1)
    roots = surface.vertices[::40]
    growth = Growth(steps=20, stiffness=0.3, height=0.004, rise=0.01)
    many = len(roots)

    def comb(at: np.ndarray, away: np.ndarray, along: float) -> np.ndarray:
        return np.cross(at, [0.0, 0.0, 1.0]) - at  # around, and inwards

    guides = grow(roots, roots, np.full(many, 0.06), np.ones(many), comb, growth, Body(surface))
    height = np.linalg.norm(guides, axis=2) - 0.1
    assert height.min() > -0.002 and height[:, 10:].mean() == pytest.approx(0.005, abs=0.0015)


def test_light_falls_off_with_the_cosine_and_stops_behind_what_stands_before_it(studio: Studio):
    """A white ball under one lamp against Lambert's law; then another ball between the two throws a shadow."""
    towards = np.array([0.48, 0.6, 0.64])
    lamp = Lights(towards[None], np.array([[3.0, 2.0, 1.0]]))
    middle = np.array([0.0, -0.05, -0.08])  # of the studio, in the camera's axes
    eye = shape("eye", ball((0.0, 0.08, -0.05), 0.04), {"iris": (0.5, 0.5, 0.5)})
    camera = Camera((0.0, -0.05), 1.2, 0.12)
    studio.write([eye], [], camera)
    lit = studio.shoot(lamp)
    shown = lit.material > 0
    normal = (lit.place[shown] - middle) / 0.04
    white = np.arccos(np.clip(normal[:, 2], -1, 1)) > 0.65  # the iris is bent by its cornea
    expected = np.maximum(normal @ towards, 0)[white, None] * lamp.radiance / np.pi
    assert white.sum() > 400 and np.abs(lit.soft[shown][white] - expected).max() < 0.03 * 3
    x, y, z = middle + 0.1 * towards
    screen = shape("skin", ball((x, -z, y), 0.03), PAINT)
    studio.write([eye, screen], [], camera)
    shaded = studio.shoot(lamp)
    spot = (shaded.material == lit.material) & (np.abs(shaded.place - middle - 0.04 * towards).sum(-1) < 0.02)
    assert spot.sum() > 20 and shaded.soft[spot].max() < 0.01 < lit.soft[spot].min()


def test_light_that_wanders_in_skin_is_not_lost():
    assert np.allclose(np.sum([share for _, share in SCATTER], 0), 1)
    skin = np.zeros((40, 40), bool)
    skin[5:35, 8:32] = True
    even = np.where(skin[..., None], np.float32(0.7), np.float32(0.1)).repeat(3, -1)
    assert np.allclose(scattered(even, skin, px_per_mm=1.5), even, atol=1e-3)
    edge = even * (np.arange(40) < 20)[None, :, None]
    red, _, blue = scattered(edge, skin, px_per_mm=1.5)[20, 23]
    assert red > 3 * blue  # red goes furthest


def test_tones_rise_and_keep_greys_grey():
    grey = np.repeat(np.linspace(0, 4, 400, dtype=np.float32).reshape(20, 20, 1), 3, 2)
    out = tones(grey).astype(int)
    assert np.all(np.diff(out[..., 0].ravel()) >= 0) and np.ptp(out, axis=2).max() == 0 and out.max() <= 255
    assert out[0, 10, 0] == round(255 * (1.055 * grey[0, 10, 0] ** (1 / 2.4) - 0.055))
