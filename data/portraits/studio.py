"""A photograph of surfaces and strands under many small lights, each with its shadow: soft light by summing.

Not for training data: a picture takes about a minute on two cores. OpenGL without a screen, as `data.characters`.
"""

from dataclasses import dataclass

import moderngl
import numpy as np
from jaxtyping import Float

from data.characters.renderer import Renderer, set_matrix
from data.portraits import shaders
from data.portraits.mesh import Surface
from data.portraits.strands import Strands, unit

SHADOW_SIDE = 1024  # texels of a shadow map
REACH_METRES = 0.34  # that a shadow map covers to each side of the middle
MIDDLE = np.array([0.0, -0.05, -0.08])  # of what throws shadows; right, up, towards the viewer
SHADOW_SHARE = 3  # of so many strands one throws a shadow, as many times wider


@dataclass(frozen=True)
class Shape:
    """A surface with what its material reads at every vertex; in the head's axes (right, backwards, up)."""

    kind: str  # skin, cloth or eye
    surface: Surface
    rest: Float[np.ndarray, "v 3"]
    mask: Float[np.ndarray, "v 4"]  # lips, lids, inside of the mouth, scalp
    extra: Float[np.ndarray, "v 2"]  # beard, metres below the neckline
    colours: dict[str, tuple[float, float, float] | float]


@dataclass(frozen=True)
class Lights:
    """Directions to lights (right, up, towards the viewer) and their colours."""

    towards: Float[np.ndarray, "n 3"]
    radiance: Float[np.ndarray, "n 3"]


@dataclass(frozen=True)
class Camera:
    """Looks at `middle` (right, up; metres) from `distance`; `height` metres there fill the square picture."""

    middle: tuple[float, float]
    distance: float
    height: float

    @property
    def place(self) -> Float[np.ndarray, "3"]:
        return np.array([*self.middle, self.distance])

    def matrix(self, near: float = 0.2, far: float = 4.0) -> Float[np.ndarray, "4 4"]:
        focal = 2 * self.distance / self.height
        matrix = np.zeros((4, 4))
        matrix[0, 0] = matrix[1, 1] = focal
        matrix[2, 2], matrix[2, 3] = (far + near) / (near - far), 2 * far * near / (near - far)
        matrix[3, 2] = -1
        view = np.eye(4)
        view[:3, 3] = -self.place
        return matrix @ view


@dataclass(frozen=True)
class Negative:
    """What the studio recorded, upside up; places in the camera's axes, 0 in `material` is background."""

    place: Float[np.ndarray, "s s 3"]
    material: Float[np.ndarray, "s s"]
    colour: Float[np.ndarray, "s s 3"]
    soft: Float[np.ndarray, "s s 3"]
    gloss: Float[np.ndarray, "s s 3"]


def disc(towards: tuple[float, float, float], radius: float, count: int, colour: np.ndarray) -> Lights:
    """A round lamp: `radius` is the sine of half its angle."""
    axis = unit(np.array(towards))
    right = unit(np.cross([0.0, 1.0, 0.0], axis))
    number = np.arange(count) + 0.5
    turn, away = number * np.pi * (3 - 5**0.5), radius * np.sqrt(number / count)
    across = np.cos(turn)[:, None] * right + np.sin(turn)[:, None] * np.cross(axis, right)
    return Lights(unit(axis + away[:, None] * across), np.tile(colour / count, (count, 1)))


def dome(low: np.ndarray, high: np.ndarray, count: int) -> Lights:
    """Light from all around, its colour going from the floor's to the ceiling's."""
    number = np.arange(count) + 0.5
    up, turn = 1 - 2 * number / count, number * np.pi * (3 - 5**0.5)
    flat = np.sqrt(1 - up * up)
    share = (0.5 + 0.5 * up)[:, None]
    return Lights(np.stack([flat * np.sin(turn), up, flat * np.cos(turn)], 1), (low + share * (high - low)) / count)


def joined(lights: list[Lights]) -> Lights:
    return Lights(np.concatenate([x.towards for x in lights]), np.concatenate([x.radiance for x in lights]))


def in_camera(points: np.ndarray) -> np.ndarray:
    """From the head's axes to the camera's."""
    return np.stack([points[..., 0], points[..., 2], -points[..., 1]], -1)


class Studio:
    """Draws pictures of `side` x `side`; call `write`, then `shoot`."""

    def __init__(self, side: int) -> None:
        self.side, self.context = side, Renderer(16).context
        make = self.context.program
        self.surfaces = {
            "skin": make(shaders.SURFACE_VERTEX, shaders.SKIN_FRAGMENT),
            "cloth": make(shaders.SURFACE_VERTEX, shaders.CLOTH_FRAGMENT),
            "eye": make(shaders.SURFACE_VERTEX, shaders.EYE_FRAGMENT),
        }
        self.casting = {
            "skin": make(shaders.SURFACE_VERTEX, shaders.SHADOW_FRAGMENT),
            "cloth": make(shaders.SURFACE_VERTEX, shaders.CLOTH_SHADOW_FRAGMENT),
        }
        self.strand = make(shaders.STRAND_VERTEX, shaders.STRAND_FRAGMENT)
        self.strand_casting = make(shaders.STRAND_VERTEX, shaders.SHADOW_FRAGMENT)
        self.light = make(shaders.LIGHT_VERTEX, shaders.LIGHT_FRAGMENT)
        size = (side, side)
        self.targets = [self.context.texture(size, 4, dtype="f4") for _ in range(3)]
        self.sums = [self.context.texture(size, 4, dtype="f4") for _ in range(2)]
        self.written = self.context.framebuffer(self.targets, self.context.depth_renderbuffer(size))
        self.summed = self.context.framebuffer(self.sums)
        self.shadow = self.context.depth_texture((SHADOW_SIDE, SHADOW_SIDE))
        self.shadow.compare_func = ""
        self.shadow.repeat_x = self.shadow.repeat_y = False
        self.shadowed = self.context.framebuffer(depth_attachment=self.shadow)
        self.casters: list[moderngl.VertexArray] = []  # of what is written down
        self.camera: Camera | None = None
        corners = self.context.buffer(np.array([-1, -1, 3, -1, -1, 3], "f4").tobytes())
        self.all_pixels = self.context.vertex_array(self.light, [(corners, "2f", "corner")])

    def write(self, shapes: list[Shape], strands: list[Strands], camera: Camera) -> None:
        """Write down what every pixel shows."""
        with self.context:
            self.context.enable(moderngl.DEPTH_TEST)
            self.context.disable(moderngl.BLEND)
            self.written.use()
            self.written.clear(0, 0, 0, 0, depth=1.0)
            self.camera, self.casters = camera, []
            for shape in shapes:
                program = self.surfaces[shape.kind]
                for name, value in shape.colours.items():
                    program[name] = value
                set_matrix(program, "projection", camera.matrix())
                buffer, index = self._upload(shape)
                _surface(self.context, program, buffer, index).render()
                if shape.kind != "eye":
                    self.casters.append(_surface(self.context, self.casting[shape.kind], buffer, index))
            set_matrix(self.strand, "projection", camera.matrix())
            self.strand["viewer"], self.strand["far"] = tuple(camera.place), 0.0
            for some in strands:
                buffer, index = _ribbons(some)
                _strand(self.context, self.strand, buffer, index).render()
                few = Strands(
                    some.points[::SHADOW_SHARE], SHADOW_SHARE * some.width[::SHADOW_SHARE], some.colour[::SHADOW_SHARE]
                )
                self.casters.append(_strand(self.context, self.strand_casting, *_ribbons(few)))

    def shoot(self, lights: Lights) -> Negative:
        """Add all lights to what is written down."""
        assert self.camera is not None, "write comes first"
        with self.context:
            self.summed.use()
            self.summed.clear(0, 0, 0, 0)
            for number, name in enumerate(("places", "normals", "colours")):
                self.light[name] = number
            self.light["shadow"], self.light["viewer"] = 3, tuple(self.camera.place)
            self.light["depth_metres"] = 2 * REACH_METRES
            for towards, radiance in zip(lights.towards, lights.radiance, strict=True):
                self._add(towards, radiance)
            place, colour = self._read(self.targets[0]), self._read(self.targets[2])
            soft, gloss = (self._read(target)[..., :3] for target in self.sums)
        return Negative(place[..., :3], place[..., 3], colour[..., :3], soft, gloss)

    def _add(self, towards: np.ndarray, radiance: np.ndarray) -> None:
        matrix = _from(towards)
        self.shadowed.use()
        self.shadowed.clear(depth=1.0)
        self.context.enable(moderngl.DEPTH_TEST)
        self.context.disable(moderngl.BLEND)
        for program in (*self.casting.values(), self.strand_casting):
            set_matrix(program, "projection", matrix)
        self.strand_casting["viewer"], self.strand_casting["far"] = tuple(towards), 1.0
        for caster in self.casters:
            caster.render()
        self.summed.use()
        self.context.disable(moderngl.DEPTH_TEST)
        self.context.enable(moderngl.BLEND)
        self.context.blend_func = moderngl.ONE, moderngl.ONE
        set_matrix(self.light, "to_shadow", matrix)
        self.light["light"], self.light["radiance"] = tuple(towards), tuple(radiance)
        for number, texture in enumerate([*self.targets, self.shadow]):
            texture.use(number)
        self.all_pixels.render(vertices=3)

    def _read(self, texture: moderngl.Texture) -> Float[np.ndarray, "s s 4"]:
        return np.frombuffer(texture.read(), np.float32).reshape(self.side, self.side, 4)[::-1]

    def _upload(self, shape: Shape) -> tuple[moderngl.Buffer, moderngl.Buffer]:
        rows = [
            in_camera(shape.surface.vertices),
            in_camera(shape.surface.normals),
            shape.rest,
            shape.mask,
            shape.extra,
        ]
        vertices = self.context.buffer(np.concatenate(rows, 1).astype("f4").tobytes())
        return vertices, self.context.buffer(shape.surface.faces.astype("i4").tobytes())


def _from(towards: np.ndarray) -> Float[np.ndarray, "4 4"]:
    """Parallel projection along a light; the depth from 0 to 1 is 2 REACH_METRES."""
    right = unit(np.cross([0.0, 1.0, 0.013], towards))
    matrix = np.eye(4)
    matrix[:3, :3] = np.stack([right, np.cross(towards, right), -towards]) / REACH_METRES
    matrix[:3, 3] = -matrix[:3, :3] @ MIDDLE
    return matrix


def _surface(
    context: moderngl.Context, program: moderngl.Program, vertices: moderngl.Buffer, index: moderngl.Buffer
) -> moderngl.VertexArray:
    """The attributes that a program reads; the others are skipped."""
    formats = {"position": "3f", "normal": "3f", "rest": "3f", "mask": "4f", "extra": "2f"}
    layout = " ".join(form if name in program else f"{4 * int(form[0])}x" for name, form in formats.items())
    return context.vertex_array(program, [(vertices, layout, *(n for n in formats if n in program))], index)


def _ribbons(strands: Strands) -> tuple[np.ndarray, np.ndarray]:
    """Two vertices per point: place, direction, colour and half width, side; and triangles."""
    points = in_camera(strands.points)
    n, k, _ = points.shape
    along = unit(np.gradient(points, axis=1))
    taper = np.sqrt(np.clip(1.02 - np.linspace(0, 1, k), 0, 1))[None, :, None]
    look = np.concatenate(
        [np.broadcast_to(strands.colour[:, None], points.shape), 0.5 * strands.width[:, None, None] * taper], 2
    )
    one = np.concatenate([points, along, look], 2)
    both = np.stack([np.concatenate([one, np.full((n, k, 1), s)], 2) for s in (-1.0, 1.0)], 2)
    first = (np.arange(n)[:, None] * k + np.arange(k - 1)).ravel() * 2
    faces = np.concatenate([first[:, None] + [0, 1, 2], first[:, None] + [1, 3, 2]])
    return both.astype("f4"), faces.astype("i4")


def _strand(
    context: moderngl.Context, program: moderngl.Program, vertices: np.ndarray, faces: np.ndarray
) -> moderngl.VertexArray:
    layout = (context.buffer(vertices.tobytes()), "3f 3f 4f 1f", "position", "along", "look", "side")
    return context.vertex_array(program, [layout], context.buffer(faces.tobytes()))
