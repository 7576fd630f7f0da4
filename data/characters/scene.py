"""One 3-D identity on the card: its vertices, colours and pictures, uploaded once; what moves is written per frame."""

from typing import Any

import moderngl
import numpy as np
from jaxtyping import Float, Int, UInt8

from data.characters.appearance import Identity
from data.characters.hair import Hair, build_hair
from data.characters.head import PARTS, load_head, neutral, normals
from data.characters.skin import HEIGHT, WIDTH, hair_uv, paint, skin_uv

LIP_DEPTH = -0.025  # of the average lips: from here backwards the mouth grows dark
DARK_AT_METRES = 0.035  # behind the lips
TEETH, TONGUE, CAVITY, LASHES = (0.66, 0.62, 0.54), (0.22, 0.035, 0.035), (0.012, 0.003, 0.003), (0.008, 0.008, 0.008)
BACKGROUND_TEXELS = 64


class Scene:
    """What `Renderer` draws for one identity. Call `release` before dropping it: the card's memory is not collected."""

    def __init__(
        self, context: moderngl.Context, who: Identity, surface: moderngl.Program, eyes: moderngl.Program
    ) -> None:
        self.who = who
        self.face = neutral(who.shape)
        self.hair = build_hair(who.hair_kind, self.face, volume=who.hair_volume)
        still = _surface_attributes(who, self.hair)
        solid, sheets = _surface_faces(self.hair)
        eye_faces = _faces_of("eye_left", "eye_right")
        self.num_solid, self.num_sheets = solid.size, sheets.size
        self.moving = context.buffer(reserve=len(still) * 6 * 4, dynamic=True)
        self.still = context.buffer(still.tobytes())
        self.eye = context.buffer(_eye_centres(self.face).tobytes())
        self.index = context.buffer(np.concatenate([solid, sheets]).astype("i4").tobytes())
        self.eye_index = context.buffer(eye_faces.astype("i4").tobytes())
        moves = (self.moving, "3f 3f", "position", "normal")
        self.surface = context.vertex_array(
            surface, [moves, (self.still, "2f 4f 1f", "uv", "paint", "shine")], self.index
        )
        self.eyes = context.vertex_array(eyes, [moves, (self.eye, "3f", "eye")], self.eye_index)
        self.picture = context.texture((WIDTH, 2 * HEIGHT), 3, paint(who).tobytes())
        self.background = context.texture((BACKGROUND_TEXELS, BACKGROUND_TEXELS), 3, _background(who).tobytes())
        self.background.repeat_x = self.background.repeat_y = False

    def release(self) -> None:
        owned: list[Any] = [self.surface, self.eyes, self.moving, self.still, self.eye, self.index, self.eye_index]
        for resource in [*owned, self.picture, self.background]:
            resource.release()

    def move(self, vertices: Float[np.ndarray, "v 3"]) -> None:
        """Write the vertices of a frame; hair stays with the skull."""
        frame = np.concatenate([vertices, normals(vertices)], 1)
        if self.hair is not None:
            frame = np.concatenate([frame, np.concatenate([self.hair.vertices, self.hair.normals], 1)])
        self.moving.write(frame.astype("f4").tobytes())

    def draw(self, context: moderngl.Context) -> None:
        """Head, then background where the head is not: every pixel is coloured about once."""
        context.enable(moderngl.DEPTH_TEST | moderngl.CULL_FACE)
        self.eyes.render()
        self.picture.use(0)
        self.surface.render(vertices=self.num_solid)
        context.disable(moderngl.CULL_FACE)
        self.surface.render(vertices=self.num_sheets, first=self.num_solid)
        self.background.use(0)


def _faces_of(*names: str) -> Int[np.ndarray, "t 3"]:
    head = load_head()
    wanted = [PARTS.index(name) for name in names]
    return head.faces[np.isin(head.part[head.faces[:, 0]], wanted)]


def _surface_faces(hair: Hair | None) -> tuple[Int[np.ndarray, "t 3"], Int[np.ndarray, "s 3"]]:
    """Closed bodies, of which only the outside is drawn, and sheets with two visible sides."""
    solid, sheets = _faces_of("skin", "teeth_upper", "teeth_lower", "tongue"), _faces_of("lashes")
    if hair is None:
        return solid, sheets
    bare = solid[~hair.covers[solid].all(1)]
    return bare, np.concatenate([sheets, hair.faces + load_head().num_vertices])


def _eye_centres(face: Float[np.ndarray, "v 3"]) -> Float[np.ndarray, "v 3"]:
    head = load_head()
    centres = np.zeros_like(face)
    for number in (PARTS.index("eye_left"), PARTS.index("eye_right")):
        centres[head.part == number] = face[head.part == number].mean(0)
    return centres.astype("f4")


def _over(under: Float[np.ndarray, "v 4"], colour: np.ndarray, alpha: Float[np.ndarray, "v"]) -> None:
    """Lay a colour over those of the vertices, in place; the last channel is what hides the picture."""
    both = alpha + under[:, 3] * (1 - alpha)
    share = (alpha / np.maximum(both, 1e-6))[:, None]
    under[:, :3] += share * (colour - under[:, :3])
    under[:, 3] = both


def _surface_attributes(who: Identity, hair: Hair | None) -> Float[np.ndarray, "n 7"]:
    """Place in the picture, colour over the picture with its opacity, shine; hair follows the head's vertices."""
    head = load_head()
    paint_over = np.zeros((head.num_vertices, 4))
    skin = np.array(who.skin)
    if hair is not None:
        _over(paint_over, np.array(who.hair) * 0.75, hair.roots)
    _over(paint_over, skin * (0.62, 0.52, 0.50), head.lids * who.lid_shadow)
    _over(paint_over, np.array(who.lips), 0.92 * head.lips)
    _over(paint_over, np.array(CAVITY), head.cavity)
    depth = np.clip(1 - (head.mean[:, 1:2] - LIP_DEPTH) / DARK_AT_METRES, 0.04, 1)
    for name, colour in (("teeth_upper", TEETH), ("teeth_lower", TEETH), ("tongue", TONGUE), ("lashes", LASHES)):
        part = head.part == PARTS.index(name)
        paint_over[part, :3], paint_over[part, 3] = np.array(colour) * depth[part], 1
    gleam = 0.04 + 0.08 * skin.mean()  # white highlights would turn dark skin grey
    shine = np.where(head.part == 0, gleam + 0.25 * head.lips, 0.08) * (1 - head.cavity) * depth[:, 0]
    rows = np.concatenate([skin_uv(head.mean), paint_over, shine[:, None]], 1)
    if hair is None:
        return rows.astype("f4")
    strands = np.zeros((len(hair.vertices), 7))
    strands[:, :2], strands[:, 6] = hair_uv(hair.vertices), 0.10
    return np.concatenate([rows, strands]).astype("f4")


def _background(who: Identity) -> UInt8[np.ndarray, "64 64 3"]:
    """A gradient, often with soft blobs, as out-of-focus rooms look."""
    rng = np.random.default_rng(who.background_seed)
    y, x = np.mgrid[-1:1:64j, -1:1:64j]
    angle = rng.uniform(0, 2 * np.pi)
    mix = np.clip(0.5 + 0.5 * (np.cos(angle) * x + np.sin(angle) * y), 0, 1)[..., None]
    low, high = (np.array(colour) for colour in who.background)
    picture = low + mix * (high - low)
    for _ in range(rng.integers(0, 7)):
        at, width = rng.uniform(-1, 1, 2), rng.uniform(0.1, 0.5)
        blob = np.exp(-((x - at[0]) ** 2 + (y - at[1]) ** 2) / width**2)[..., None]
        picture = picture + blob * rng.uniform(0.2, 0.9) * (rng.uniform(0.02, 0.9, 3) - picture)
    return (255 * np.clip(picture, 0, 1) ** (1 / 2.2)).astype(np.uint8)
