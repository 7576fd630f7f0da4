"""Draw characters: 3-D heads through OpenGL without a screen (EGL), flat ones through `cartoon`."""

from dataclasses import dataclass

import moderngl
import numpy as np
from jaxtyping import Float, UInt8

from data.characters.appearance import Identity, human
from data.characters.cartoon import (
    CARTOON_STYLES,
    UNSEEN_STYLES,
    CartoonIdentity,
    CartoonRenderer,
    cartoon,
    cartoon_mouth,
)
from data.characters.head import animate, eyes_and_lips, mouth_opening, neutral
from data.characters.scene import Scene
from data.characters.shaders import (
    BACKGROUND_FRAGMENT,
    BACKGROUND_VERTEX,
    EYE_FRAGMENT,
    EYE_VERTEX,
    SURFACE_FRAGMENT,
    SURFACE_VERTEX,
)
from gwm.media.face import EYES_AT, MOUTH_AT

STYLES: tuple[str, ...] = ("anny", *CARTOON_STYLES)
Real = float | np.floating
CAMERA_METRES = 0.9
NECK = (0.0, 0.075, -0.085)  # the head turns around here
GAZE_RADIANS = np.array([0.4, 0.22])  # a gaze of 1; upright less, as the lids do not follow the eyes
SUPERSAMPLING = 2  # per axis; on a software rasteriser faster than 4x multisampling, and better


@dataclass(frozen=True)
class Framing:
    """Where the picture lies against the usual framing: shifts in widths of the frame, zoom about the middle."""

    right: float = 0.0
    down: float = 0.0
    zoom: float = 1.0

    def matrix(self) -> Float[np.ndarray, "4 4"]:
        """To be applied to clip coordinates after the projection."""
        matrix = np.diag([self.zoom, self.zoom, 1.0, 1.0])
        matrix[0, 3], matrix[1, 3] = 2 * self.right, -2 * self.down
        return matrix


CENTRED = Framing()


def identity(seed: int, style: str) -> Identity | CartoonIdentity:
    """The character of a seed in a style.

    Raises:
        ValueError: the style is unknown.
    """
    if style not in (*STYLES, *UNSEEN_STYLES):
        raise ValueError(f"style={style!r} must be one of {(*STYLES, *UNSEEN_STYLES)}.")
    return human(seed) if style == "anny" else cartoon(seed, style)


class Renderer:
    """One offscreen context that draws any character at one resolution.

    Raises:
        RuntimeError: no EGL on this machine.
    """

    def __init__(self, resolution: int) -> None:
        try:
            self.context = moderngl.create_standalone_context(backend="egl")  # pyright: ignore[reportArgumentType]  # a setting
        except Exception as error:  # moderngl raises bare Exception
            raise RuntimeError(
                f"no OpenGL without a screen ({error}): EGL and Mesa must be installed. "
                "On Debian: apt-get install libegl1 libgl1-mesa-dri"
            ) from error
        self.resolution = resolution
        self.canvas = self.context.simple_framebuffer((SUPERSAMPLING * resolution, SUPERSAMPLING * resolution), 4)
        self.surface_program = self.context.program(SURFACE_VERTEX, SURFACE_FRAGMENT)
        self.eye_program = self.context.program(EYE_VERTEX, EYE_FRAGMENT)
        self.turning = [self.surface_program, self.eye_program]  # programs that share the camera and the head's turn
        self.background_program = self.context.program(BACKGROUND_VERTEX, BACKGROUND_FRAGMENT)
        corners = self.context.buffer(np.array([-1, -1, 3, -1, -1, 3], "f4").tobytes())
        self.backdrop = self.context.vertex_array(self.background_program, [(corners, "2f", "corner")])
        self.scene: Scene | None = None
        self.cartoons = CartoonRenderer(resolution)
        self.framing = CENTRED

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
        with self.context:  # of several renderers in a process, each has its own
            scene = self.scene_of(who)
            shapes = animate(scene.face, actions)
            return np.stack([self.frame(scene, *frame) for frame in zip(shapes, pose, gaze, strict=True)])

    def mouth(self, who: Identity | CartoonIdentity, actions: Float[np.ndarray, "f 52"]) -> Float[np.ndarray, "f"]:
        """True opening of the lips in [0, 1]."""
        if isinstance(who, CartoonIdentity):
            return cartoon_mouth(who, actions)
        return mouth_opening(neutral(who.shape), actions)

    def scene_of(self, who: Identity) -> Scene:
        """The uploaded scene of a person, seen by the camera of the present framing."""
        if self.scene is not None and self.scene.who is who:
            self._set_camera(self.scene.face)
            return self.scene
        if self.scene is not None:
            self.scene.release()
        self.scene = Scene(self.context, who, self.surface_program, self.eye_program)
        self._set_camera(self.scene.face)
        light = np.array(who.light) / np.linalg.norm(who.light)
        for program in (self.surface_program, self.eye_program):
            program["light"], program["light_colour"], program["ambient"] = tuple(light), who.light_colour, who.ambient
        self.eye_program["iris"] = who.iris
        return self.scene

    def _set_camera(self, face: Float[np.ndarray, "v 3"]) -> None:
        """Eyes and mouth of every face where `gwm.media.face` has them, then the framing."""
        eyes, mouth = eyes_and_lips(face)
        height = (eyes - mouth) / (MOUTH_AT - EYES_AT)
        centre = (0.0, 0.0, eyes - (0.5 - EYES_AT) * height)
        projection = self.framing.matrix() @ _projection(height)
        for program in self.turning:
            set_matrix(program, "projection", projection)
            program["shift"], program["pivot"] = centre, NECK

    def set_turn(self, pose: Float[np.ndarray, "3"]) -> None:
        """Turn the head of the scene: yaw, pitch, roll in radians."""
        for program in self.turning:
            set_matrix(program, "turn", turn_matrix(*pose))

    def frame(self, scene: Scene, vertices: np.ndarray, pose: np.ndarray, gaze: np.ndarray) -> np.ndarray:
        """Draw one picture of a scene."""
        scene.move(vertices)
        self.set_turn(pose)
        self.eye_program["gaze"] = tuple(np.tan(GAZE_RADIANS * gaze))
        self.canvas.use()
        self.canvas.clear(depth=1.0)
        scene.draw(self.context)
        self.backdrop.render(vertices=3)
        side = SUPERSAMPLING * self.resolution
        return _downsample(np.frombuffer(self.canvas.read(components=3, alignment=1), np.uint8).reshape(side, side, 3))


def set_matrix(program: moderngl.Program, name: str, matrix: np.ndarray) -> None:
    """Write a matrix, given by rows, to a program's uniform."""
    uniform = program[name]
    assert isinstance(uniform, moderngl.Uniform), name
    uniform.write(matrix.T.astype("f4").tobytes())


def _downsample(canvas: UInt8[np.ndarray, "h w 3"]) -> UInt8[np.ndarray, "h//2 w//2 3"]:
    """Mean of every 2x2 pixels, upside up: OpenGL's rows start at the bottom."""
    wide = canvas[::-1].astype(np.uint16)
    summed = wide[::2, ::2] + wide[1::2, ::2] + wide[::2, 1::2] + wide[1::2, 1::2]
    return ((summed + 2) // 4).astype(np.uint8)


def _projection(height: Real, near: float = 0.1, far: float = 5.0) -> Float[np.ndarray, "4 4"]:
    """Perspective in which `height` metres at the camera distance fill the frame."""
    focal = 2 * CAMERA_METRES / height
    matrix = np.zeros((4, 4))
    matrix[0, 0] = matrix[1, 1] = focal
    matrix[2, 2], matrix[2, 3] = (far + near) / (near - far), 2 * far * near / (near - far)
    matrix[3, 2] = -1
    view = np.eye(4)
    view[2, 3] = -CAMERA_METRES
    return matrix @ view


def turn_matrix(yaw: Real, pitch: Real, roll: Real) -> Float[np.ndarray, "3 3"]:
    """Rotation of the head: yaw > 0 looks to image right, pitch > 0 up, roll > 0 tilts clockwise in the image."""
    cy, sy, cp, sp, cr, sr = np.cos(yaw), np.sin(yaw), np.cos(pitch), np.sin(pitch), np.cos(roll), np.sin(roll)
    around_up = np.array([[cy, -sy, 0], [sy, cy, 0], [0, 0, 1]])
    around_right = np.array([[1, 0, 0], [0, cp, sp], [0, -sp, cp]])
    around_view = np.array([[cr, 0, sr], [0, 1, 0], [-sr, 0, cr]])
    return around_up @ around_right @ around_view
