"""One 3-D identity on the card: its vertices, colours and pictures, uploaded once; what moves is written per frame."""

from typing import Any

import moderngl
import numpy as np
from jaxtyping import Float, Int, UInt8
from scipy.ndimage import gaussian_filter

from data.characters.appearance import Identity
from data.characters.glasses import Glasses, build_glasses
from data.characters.hair import Hair, build_hair
from data.characters.head import PARTS, load_head, neutral, normals
from data.characters.skin import HEIGHT, WIDTH, hair_uv, paint, skin_uv, teeth_uv

LIP_DEPTH = -0.025  # of the average lips: from here backwards the mouth grows dark
DARK_AT_METRES = 0.035  # behind the lips
TONGUE, CAVITY, LASHES = (0.30, 0.07, 0.066), (0.012, 0.003, 0.003), (0.008, 0.008, 0.008)
GROOVE_METRES = 0.003  # along the middle of the tongue
CHIN_TO_NAPE = (-0.122, 0.34)  # height in metres at y = 0, and rise per metre backwards, of the head's lower end
NECK_METRES = 0.07  # below that line: over this length the turn of the head fades out
BACKGROUND_TEXELS = 64


class Scene:
    """What `Renderer` draws for one identity. Call `release` before dropping it: the card's memory is not collected."""

    def __init__(
        self, context: moderngl.Context, who: Identity, surface: moderngl.Program, eyes: moderngl.Program
    ) -> None:
        self.who = who
        self.face = neutral(who.shape)
        self.hair = build_hair(who.hair_kind, self.face, volume=who.hair_volume)
        self.glasses = build_glasses(who.glasses, self.face)
        rigid = [piece for piece in (self.hair, self.glasses) if piece is not None]
        self.rigid = np.concatenate([np.concatenate([p.vertices, p.normals], 1) for p in rigid] or [np.zeros((0, 6))])
        still = _surface_attributes(who, self.hair, self.glasses)
        self.follow = still[:, -1]
        solid, sheets = _surface_faces(self.hair, self.glasses)
        eye_faces = _faces_of("eye_left", "eye_right")
        self.num_solid, self.num_sheets = solid.size, sheets.size
        self.moving = context.buffer(reserve=len(still) * 6 * 4, dynamic=True)
        self.still = context.buffer(still.tobytes())
        self.eye = context.buffer(_eye_centres(self.face).tobytes())
        self.index = context.buffer(np.concatenate([solid, sheets]).astype("i4").tobytes())
        self.eye_index = context.buffer(eye_faces.astype("i4").tobytes())
        moves = (self.moving, "3f 3f", "position", "normal")
        self.surface = context.vertex_array(
            surface, [moves, (self.still, "2f 4f 1f 1f", "uv", "paint", "shine", "follow")], self.index
        )
        self.eyes = context.vertex_array(eyes, [moves, (self.eye, "3f", "eye")], self.eye_index)
        self.picture = context.texture((WIDTH, 2 * HEIGHT), 3, paint(who).tobytes())
        backdrop = _background(who)
        self.background = context.texture(backdrop.shape[1::-1], 3, backdrop.tobytes())
        self.background.repeat_x = self.background.repeat_y = False

    def release(self) -> None:
        owned: list[Any] = [self.surface, self.eyes, self.moving, self.still, self.eye, self.index, self.eye_index]
        for resource in [*owned, self.picture, self.background]:
            resource.release()

    def move(self, vertices: Float[np.ndarray, "v 3"]) -> None:
        """Write the vertices of a frame; hair and glasses stay with the skull."""
        frame = np.concatenate([np.concatenate([vertices, normals(vertices)], 1), self.rigid])
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


def _surface_faces(hair: Hair | None, glasses: Glasses | None) -> tuple[Int[np.ndarray, "t 3"], Int[np.ndarray, "s 3"]]:
    """Closed bodies, of which only the outside is drawn, and sheets with two visible sides."""
    solid, sheets = _faces_of("skin", "teeth_upper", "teeth_lower", "tongue"), [_faces_of("lashes")]
    start = load_head().num_vertices
    if hair is not None:
        solid = solid[~hair.covers[solid].all(1)]
        sheets.append(hair.faces + start)
        start += len(hair.vertices)
    if glasses is not None:
        sheets.append(glasses.faces + start)
    return solid, np.concatenate(sheets)


def _follow(rest: Float[np.ndarray, "v 3"]) -> Float[np.ndarray, "v"]:
    """Share of the head's turn that a vertex of the average head takes part in: 1 down to the line from chin to nape,
    then falling to 0 over the neck; shoulders stay."""
    above = rest[:, 2] - (CHIN_TO_NAPE[0] + CHIN_TO_NAPE[1] * rest[:, 1])
    share = np.clip(1 + above / NECK_METRES, 0, 1)
    return share * share * (3 - 2 * share)


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


def _surface_attributes(who: Identity, hair: Hair | None, glasses: Glasses | None) -> Float[np.ndarray, "n 8"]:
    """Place in the picture, colour over the picture with its opacity, shine, share of the head's turn; the rows of hair
    and glasses come after those of the head."""
    head = load_head()
    paint_over = np.zeros((head.num_vertices, 4))
    skin = np.array(who.skin)
    if hair is not None:
        _over(paint_over, np.array(who.hair) * 0.75, hair.roots)
    _over(paint_over, skin * (0.62, 0.52, 0.50), head.lids * who.lid_shadow)
    _over(paint_over, np.array(who.lips), 0.92 * head.lips)
    _over(paint_over, np.array(CAVITY), head.cavity)
    depth = np.clip(1 - (head.mean[:, 1:2] - LIP_DEPTH) / DARK_AT_METRES, 0.04, 1)
    groove = 1 - 0.45 * np.exp(-np.square(head.mean[:, :1] / GROOVE_METRES))
    for name, colour in (("tongue", np.array(TONGUE) * groove * depth**1.5), ("lashes", np.array(LASHES) * depth)):
        part = head.part == PARTS.index(name)
        paint_over[part, :3], paint_over[part, 3] = colour[part], 1
    uv = skin_uv(head.mean)
    for name in ("teeth_upper", "teeth_lower"):
        part = head.part == PARTS.index(name)
        uv[part] = teeth_uv(head.mean[part], upper=name == "teeth_upper")
        paint_over[part, :3], paint_over[part, 3] = 0, 1 - depth[part, 0]
    gleam = 0.04 + 0.08 * skin.mean()  # white highlights would turn dark skin grey
    shine = np.where(head.part == 0, gleam + 0.25 * head.lips, 0.08) * (1 - head.cavity) * depth[:, 0]
    follow = np.where(head.part == PARTS.index("skin"), _follow(head.mean), 1.0)
    rows = [np.concatenate([uv, paint_over, shine[:, None], follow[:, None]], 1)]
    if hair is not None:
        strands = np.zeros((len(hair.vertices), 8))
        strands[:, :2], strands[:, 6], strands[:, 7] = hair_uv(hair.vertices), 0.10, 1
        rows.append(strands)
    if glasses is not None:
        frame = np.zeros((len(glasses.vertices), 8))
        frame[:, 2:5], frame[:, 5], frame[:, 6], frame[:, 7] = who.glasses_colour, 1, 0.5, 1
        rows.append(frame)
    return np.concatenate(rows).astype("f4")


def _background(who: Identity) -> UInt8[np.ndarray, "h w 3"]:
    """A gradient, often with soft blobs, as out-of-focus rooms look; with `clutter`, things with edges before it."""
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
    if who.clutter > 0:
        picture = _cluttered(np.repeat(np.repeat(picture, 4, 0), 4, 1), rng, who.clutter)
    return (255 * np.clip(picture, 0, 1) ** (1 / 2.2)).astype(np.uint8)


def _cluttered(picture: Float[np.ndarray, "n n 3"], rng: np.random.Generator, contrast: float) -> np.ndarray:
    """Boards, bars and stains of random colours, out of focus by a random amount: rooms behind real portraits."""
    n = len(picture)
    y, x = np.mgrid[-1 : 1 : n * 1j, -1 : 1 : n * 1j]
    for _ in range(rng.integers(3, 16)):
        angle, at = rng.uniform(0, np.pi), rng.uniform(-1, 1, 2)
        along = np.cos(angle) * (x - at[0]) + np.sin(angle) * (y - at[1])
        across = np.cos(angle) * (y - at[1]) - np.sin(angle) * (x - at[0])
        length, width = rng.uniform(0.05, 1.5), rng.uniform(0.02, 0.5)
        inside = (np.abs(along) < length) & (np.abs(across) < width)
        if rng.random() < 0.3:  # a shelf, a grille
            inside &= np.sin(along * rng.uniform(10, 80)) > 0
        strength = contrast * rng.uniform(0.3, 1)
        picture = picture + (strength * inside)[..., None] * (rng.uniform(0.02, 0.9, 3) - picture)
    grain = gaussian_filter(rng.normal(size=picture.shape), (rng.uniform(1, 6), rng.uniform(1, 6), 0))
    picture = picture * (1 + 0.2 * contrast * grain / grain.std())
    blur = rng.uniform(0.0, 4.0)
    return gaussian_filter(picture, (blur, blur, 0))
