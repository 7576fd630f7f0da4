"""Who is portrayed, and everything that a picture of them shows."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float

from data.actions import ACTION_NAMES, index
from data.characters.appearance import Colour
from data.characters.head import PARTS, animate, eyes_and_lips, load_head, neutral
from data.portraits.mesh import Body, Surface, subdivision
from data.portraits.strands import Strands
from data.portraits.studio import Camera, Lights, Shape, disc, dome, joined
from data.portraits.wardrobe import Head, beard, beard_density, brows, lashes, long_hair, scalp, short_hair
from gwm.media.face import EYES_AT, MOUTH_AT

SMILE = {"mouthSmile": 0.38, "cheekSquint": 0.15, "eyeWide": 0.28, "mouthDimple": 0.1}
FACE_SHARE = 0.60  # of the picture: the square that training data shows of a face
EYES_FROM_TOP = 0.46  # of the picture
CAMERA_METRES = 1.3
CLOTH_METRES = 0.006  # over the skin


@dataclass(frozen=True)
class Person:
    """One portrait. Colours are linear; components beyond the given ones come from the seed."""

    name: str
    seed: int
    components: tuple[float, ...]  # first ones of the head's shape, in deviations
    skin: Colour
    lips: Colour
    iris: Colour
    hair: Colour
    hairline: float  # metres over the eyes
    brow: Colour
    brow_thick: float
    freckles: float
    beard: float  # darkness; 0: none
    cloth: Colour
    knit: float
    neckline: float  # metres below the usual one
    room: tuple[Colour, ...]
    style: Callable[[Head, Colour], Strands]


NOA = Person(
    name="noa",
    seed=1104,
    components=(0.2, -1.1, 0.7, 0.0),
    skin=(0.64, 0.42, 0.31),
    lips=(0.52, 0.19, 0.17),
    iris=(0.10, 0.125, 0.085),
    hair=(0.115, 0.042, 0.016),
    hairline=0.060,
    brow=(0.07, 0.03, 0.014),
    brow_thick=0.8,
    freckles=0.35,
    beard=0.0,
    cloth=(0.045, 0.17, 0.14),
    knit=0.0,
    neckline=0.010,
    room=((0.16, 0.23, 0.24), (0.07, 0.10, 0.10), (0.80, 0.70, 0.55), (0.9, 0.6, 0.3), (0.35, 0.5, 0.5)),
    style=lambda head, colour: long_hair(head, colour, part=0.016, hairline=0.060, seed=3),
)
SAM = Person(
    name="sam",
    seed=306,
    components=(0.0, 1.1, 0.5, 0.0),
    skin=(0.20, 0.105, 0.062),
    lips=(0.22, 0.075, 0.060),
    iris=(0.055, 0.024, 0.010),
    hair=(0.010, 0.007, 0.006),
    hairline=0.068,
    brow=(0.012, 0.008, 0.006),
    brow_thick=1.15,
    freckles=0.0,
    beard=1.0,
    cloth=(0.035, 0.075, 0.16),
    knit=0.0,
    neckline=0.0,
    room=((0.20, 0.16, 0.14), (0.08, 0.06, 0.05), (0.75, 0.52, 0.32), (0.9, 0.55, 0.25), (0.3, 0.4, 0.5)),
    style=lambda head, colour: short_hair(head, colour, top=0.022, sides=0.007, seed=5),
)
PEOPLE = {person.name: person for person in (NOA, SAM)}


@dataclass(frozen=True)
class Sitting:
    """What the studio is given."""

    shapes: list[Shape]
    strands: list[Strands]
    camera: Camera


def sitting(who: Person) -> Sitting:
    """A person with a faint smile who looks into the camera."""
    asset = load_head()
    coarse = _face(who)
    once, faces = subdivision(asset.skin_faces, asset.num_vertices)
    twice, faces = subdivision(faces, once.shape[0])
    fine = twice @ once
    skin, rest = Surface.of(fine @ coarse, faces), fine @ asset.mean
    below = 0.6 * rest[:, 1] - rest[:, 2] - 0.195 - who.neckline
    lifted = skin.vertices + skin.normals * np.clip(below, -0.001, CLOTH_METRES)[:, None]
    cloth = Surface.of(lifted, faces)
    head = Head(skin, rest, coarse, Body(cloth))
    lips = fine @ asset.lips
    mask = np.stack([lips, fine @ asset.lids, fine @ asset.cavity, 0.75 * scalp(rest, who.hairline)], 1)
    extra = np.stack([who.beard * 0.55 * beard_density(rest, lips), below], 1)
    paint = {"skin": who.skin, "lips": who.lips, "hair": who.hair, "freckles": who.freckles}
    shapes = [
        Shape("skin", skin, rest, mask, extra, paint),
        Shape("cloth", cloth, rest, mask, extra, {"cloth": who.cloth, "knit": who.knit}),
        *(_eye(name, coarse, who.iris) for name in ("eye_left", "eye_right")),
    ]
    strands = [
        who.style(head, who.hair),
        brows(head, who.brow, thick=who.brow_thick, seed=1),
        lashes(head, seed=2),
    ]
    if who.beard:
        strands.append(beard(head, who.hair, length=0.0042, count=16000, seed=4))
    return Sitting(shapes, strands, _camera(coarse))


def _face(who: Person) -> Float[np.ndarray, "v 3"]:
    shape = 0.6 * np.random.default_rng(who.seed).normal(size=len(load_head().components))
    shape[: len(who.components)] = who.components
    actions = np.zeros((1, len(ACTION_NAMES)), np.float32)
    for name, weight in SMILE.items():
        actions[0, [index(name + "Left"), index(name + "Right")]] = weight
    return animate(neutral(shape.astype(np.float32)), actions)[0]


def _eye(name: str, coarse: np.ndarray, iris: Colour) -> Shape:
    asset = load_head()
    part = asset.part == PARTS.index(name)
    once, faces = subdivision(asset.faces[part[asset.faces[:, 0]]], asset.num_vertices)
    twice, faces = subdivision(faces, once.shape[0])
    vertices = twice @ (once @ coarse)
    empty = np.zeros((len(vertices), 4))
    return Shape(
        "eye", Surface.of(vertices, faces), vertices - coarse[part].mean(0), empty, empty[:, :2], {"iris": iris}
    )


def _camera(face: Float[np.ndarray, "v 3"]) -> Camera:
    eyes, mouth = eyes_and_lips(face)
    height = (eyes - mouth) / (MOUTH_AT - EYES_AT) / FACE_SHARE
    return Camera((0.0, eyes - (0.5 - EYES_FROM_TOP) * height), CAMERA_METRES, height)


def lights(share: float) -> Lights:
    """A warm soft box at the upper left, two lamps behind, and a room around; `share` of the usual number of lights."""
    return joined(
        [
            disc((-0.55, 0.50, 0.70), 0.35, round(32 * share), np.array([3.30, 2.95, 2.60])),
            disc((0.85, 0.40, -0.45), 0.25, round(12 * share), np.array([2.60, 2.60, 2.70])),
            disc((-0.85, 0.50, -0.50), 0.25, round(8 * share), np.array([1.20, 1.20, 1.20])),
            dome(np.array([0.60, 0.52, 0.48]), np.array([1.49, 1.57, 1.70]), round(48 * share)),
        ]
    )
