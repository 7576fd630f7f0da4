"""Draw characters: 3-D heads through OpenGL without a screen (EGL), flat ones through `cartoon`."""

from dataclasses import dataclass

import moderngl
import numpy as np
from jaxtyping import Float, UInt8

from data.characters.appearance import Identity, human
from data.characters.cartoon import CARTOON_STYLES, CartoonIdentity, CartoonRenderer, cartoon, cartoon_mouth
from data.characters.hair import Hair, build_hair
from data.characters.head import PARTS, animate, load_head, mouth_opening, neutral, normals
from data.characters.shaders import BACKGROUND_FRAGMENT, BACKGROUND_VERTEX, HEAD_FRAGMENT, HEAD_VERTEX

STYLES: tuple[str, ...] = ("anny", *CARTOON_STYLES)
CAMERA_METRES = 0.9
NECK = (0.0, 0.075, -0.085)  # the head turns around here
GAZE_RADIANS = 0.4  # a gaze of 1
SUPERSAMPLING = 2  # per axis; on a software rasteriser faster than 4x multisampling, and better
FACE_SHARE = 0.75  # of the frame height, from chin to hairline


def identity(seed: int, style: str) -> Identity | CartoonIdentity:
    """The character of a seed in a style.

    Raises:
        ValueError: the style is unknown.
    """
    if style not in STYLES:
        raise ValueError(f"style={style!r} must be one of {STYLES}.")
    return human(seed) if style == "anny" else cartoon(seed, style)


@dataclass
class _Scene:
    """What one 3-D identity needs on the card; kept until another identity is drawn."""

    who: Identity
    face: Float[np.ndarray, "v 3"]
    hair: Hair | None
    array: moderngl.VertexArray
    moving: moderngl.Buffer
    background: moderngl.Texture


class Renderer:
    """One offscreen context that draws any character at one resolution.

    Raises:
        RuntimeError: no EGL on this machine.
    """

    def __init__(self, resolution: int) -> None:
        try:
            self.context = moderngl.create_standalone_context(backend="egl")
        except Exception as error:  # moderngl raises bare Exception
            raise RuntimeError(
                f"no OpenGL without a screen ({error}): EGL and Mesa must be installed. "
                "On Debian: apt-get install libegl1 libgl1-mesa-dri"
            ) from error
        self.resolution = resolution
        self.canvas = self.context.simple_framebuffer((SUPERSAMPLING * resolution, SUPERSAMPLING * resolution), 4)
        self.head_program = self.context.program(HEAD_VERTEX, HEAD_FRAGMENT)
        self.background_program = self.context.program(BACKGROUND_VERTEX, BACKGROUND_FRAGMENT)
        corners = self.context.buffer(np.array([-1, -1, 3, -1, -1, 3], "f4").tobytes())
        self.backdrop = self.context.vertex_array(self.background_program, [(corners, "2f", "corner")])
        self.scene: _Scene | None = None
        self.cartoons = CartoonRenderer(resolution)

    def render(
        self,
        who: Identity | CartoonIdentity,
        actions: Float[np.ndarray, "f 52"],
        pose: Float[np.ndarray, "f 3"],
        gaze: Float[np.ndarray, "f 2"],
    ) -> UInt8[np.ndarray, "f h w 3"]:
        """Frames of a performance: yaw, pitch, roll in radians, gaze in [-1, 1] per axis."""
        if isinstance(who, CartoonIdentity):
            return self.cartoons.render(who, actions, pose, gaze)
        scene = self._scene(who)
        shapes = animate(scene.face, actions)
        return np.stack([self._frame(scene, *frame) for frame in zip(shapes, pose, gaze, strict=True)])

    def mouth(self, who: Identity | CartoonIdentity, actions: Float[np.ndarray, "f 52"]) -> Float[np.ndarray, "f"]:
        """True opening of the lips in [0, 1]."""
        if isinstance(who, CartoonIdentity):
            return cartoon_mouth(who, actions)
        return mouth_opening(neutral(who.shape), actions)

    def _scene(self, who: Identity) -> _Scene:
        if self.scene is not None and self.scene.who is who:
            return self.scene
        if self.scene is not None:
            for resource in (self.scene.array, self.scene.moving, self.scene.background):
                resource.release()
        head, face = load_head(), neutral(who.shape)
        hair = build_hair(who.hair_kind, face, volume=who.hair_volume)
        still, faces = _still_attributes(face, hair)
        moving = self.context.buffer(reserve=len(still) * 6 * 4, dynamic=True)
        self.scene = _Scene(
            who,
            face,
            hair,
            self.context.vertex_array(
                self.head_program,
                [
                    (moving, "3f 3f", "position", "normal"),
                    (self.context.buffer(still.tobytes()), "3f 3f 4f 1f", "rest", "eye", "look", "part"),
                ],
                self.context.buffer(faces.tobytes()),
            ),
            moving,
            self.context.texture((64, 64), 3, _background(who).tobytes()),
        )
        self._set_colours(who, face[head.skin_faces].reshape(-1, 3))
        return self.scene

    def _set_colours(self, who: Identity, skin: np.ndarray) -> None:
        program = self.head_program
        for name in (
            "skin",
            "brow",
            "iris",
            "lips",
            "light",
            "light_colour",
            "ambient",
            "beard",
            "freckles",
            "lid_shadow",
        ):
            program[name] = getattr(who, name)
        program["hair"] = who.hair if who.hair_kind != "beanie" else who.background[1]
        program["seed"] = float(who.seed % 997)
        chin = skin[(np.abs(skin[:, 0]) < 0.01) & (skin[:, 1] < -0.005), 2].min()  # the neck lies further back
        hairline = 0.06
        height = (hairline - chin) / FACE_SHARE / who.zoom
        centre = (who.offset[0] * height, 0.0, (hairline + chin) / 2 + who.offset[1] * height)
        _matrix(program, "projection").write(_projection(height).T.astype("f4").tobytes())
        program["shift"] = centre
        program["pivot"] = NECK

    def _frame(self, scene: _Scene, vertices: np.ndarray, pose: np.ndarray, gaze: np.ndarray) -> np.ndarray:
        positions = np.concatenate([vertices, normals(vertices)], 1)
        if scene.hair is not None:
            positions = np.concatenate([positions, np.concatenate([scene.hair.vertices, scene.hair.normals], 1)])
        scene.moving.write(positions.astype("f4").tobytes())
        _matrix(self.head_program, "turn").write(_turn(*pose).T.astype("f4").tobytes())
        self.head_program["gaze"] = tuple(np.tan(GAZE_RADIANS * gaze))
        self.canvas.use()
        self.canvas.clear(depth=1.0)
        self.context.disable(moderngl.DEPTH_TEST)
        scene.background.use(0)
        self.backdrop.render(vertices=3)
        self.context.enable(moderngl.DEPTH_TEST)
        scene.array.render()
        side = SUPERSAMPLING * self.resolution
        return _downsample(np.frombuffer(self.canvas.read(components=3, alignment=1), np.uint8).reshape(side, side, 3))


def _matrix(program: moderngl.Program, name: str) -> moderngl.Uniform:
    uniform = program[name]
    assert isinstance(uniform, moderngl.Uniform), name
    return uniform


def _downsample(canvas: UInt8[np.ndarray, "2*h 2*w 3"]) -> UInt8[np.ndarray, "h w 3"]:
    """Mean of every 2x2 pixels, upside up: OpenGL's rows start at the bottom."""
    wide = canvas[::-1].astype(np.uint16)
    summed = wide[::2, ::2] + wide[1::2, ::2] + wide[::2, 1::2] + wide[1::2, 1::2]
    return ((summed + 2) // 4).astype(np.uint8)


def _still_attributes(face: np.ndarray, hair: Hair | None) -> tuple[np.ndarray, np.ndarray]:
    """Per vertex: place on the average head, its eye's centre, (lips, lids, strand, cavity), part; all triangles."""
    head = load_head()
    eye = np.zeros_like(face)
    for number in (PARTS.index("eye_left"), PARTS.index("eye_right")):
        eye[head.part == number] = face[head.part == number].mean(0)
    zero = np.zeros_like(head.lips)
    look = np.stack([head.lips, head.lids, zero, head.cavity], 1)
    still = np.concatenate([head.mean, eye, look, head.part[:, None]], 1)
    if hair is None:
        return still.astype("f4"), head.faces
    blank = np.zeros((len(hair.vertices), 11))
    blank[:, 8], blank[:, 10] = hair.colour_shift, len(PARTS)
    return np.concatenate([still, blank]).astype("f4"), np.concatenate([head.faces, hair.faces + len(face)])


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


def _projection(height: float, near: float = 0.1, far: float = 5.0) -> Float[np.ndarray, "4 4"]:
    """Perspective in which `height` metres at the camera distance fill the frame."""
    focal = 2 * CAMERA_METRES / height
    matrix = np.zeros((4, 4))
    matrix[0, 0] = matrix[1, 1] = focal
    matrix[2, 2], matrix[2, 3] = (far + near) / (near - far), 2 * far * near / (near - far)
    matrix[3, 2] = -1
    view = np.eye(4)
    view[2, 3] = -CAMERA_METRES
    return matrix @ view


def _turn(yaw: float, pitch: float, roll: float) -> Float[np.ndarray, "3 3"]:
    """Rotation of the head: yaw > 0 looks to image right, pitch > 0 up, roll > 0 tilts clockwise in the image."""
    cy, sy, cp, sp, cr, sr = np.cos(yaw), np.sin(yaw), np.cos(pitch), np.sin(pitch), np.cos(roll), np.sin(roll)
    around_up = np.array([[cy, -sy, 0], [sy, cy, 0], [0, 0, 1]])
    around_right = np.array([[1, 0, 0], [0, cp, sp], [0, -sp, cp]])
    around_view = np.array([[cr, 0, sr], [0, 1, 0], [-sr, 0, cr]])
    return around_up @ around_right @ around_view
