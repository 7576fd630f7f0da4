"""Exact motion between a person's reference image and any picture of a performance, drawn with the same camera.

The flow is backward: for every cell of a picture, where the reference shows the same point of the head. A vertex
carries its place in the reference as an attribute, which is interpolated over triangles as the picture's colours are.
"""

from dataclasses import dataclass

import cv2
import moderngl
import numpy as np
from jaxtyping import Bool, Float, UInt8

from data.actions import ACTION_NAMES
from data.characters.appearance import Identity
from data.characters.cartoon import CartoonIdentity, cartoon_flow
from data.characters.head import animate
from data.characters.renderer import Renderer, set_matrix, turn_matrix
from data.characters.scene import Scene
from data.characters.shaders import FLOW_FRAGMENT, FLOW_VERTEX
from data.characters.sketch import SketchIdentity, SketchRenderer

GRID = 64  # cells a side of the flow
DEPTH_GRID = 256  # of the reference's depth map
DEPTH_TOLERANCE = 0.004  # metres: what lies further behind the reference's surface is hidden there
BACKGROUND, SURFACE, EYE = 0, 1, 2  # labels of cells


@dataclass(frozen=True)
class Motion:
    """A performance with its reference. Flow is (x, y) in cells of the grid, y down, to be added to a cell's place."""

    frames: UInt8[np.ndarray, "f h w 3"]
    reference: UInt8[np.ndarray, "h w 3"]
    flow: Float[np.ndarray, "f 64 64 2"]  # float16; on the background that of the nearest cell of the person
    label: UInt8[np.ndarray, "f 64 64"]
    visible: Bool[np.ndarray, "f 64 64"]  # whether the reference shows this point
    person: Bool[np.ndarray, "256 256"]  # foreground of the reference


class MotionRenderer:
    """Draws what `Renderer` draws, with flow; owns two small float targets of its context."""

    def __init__(self, renderer: Renderer) -> None:
        self.renderer = renderer
        context = renderer.context
        self.program = context.program(FLOW_VERTEX, FLOW_FRAGMENT)
        renderer.turning.append(self.program)
        self.sketches = SketchRenderer(renderer.resolution)
        self.targets = {side: _float_target(context, side) for side in (GRID, DEPTH_GRID)}

    def render(
        self,
        who: Identity | CartoonIdentity | SketchIdentity,
        actions: Float[np.ndarray, "f 52"],
        pose: Float[np.ndarray, "f 3"],
        gaze: Float[np.ndarray, "f 2"],
        reference_pose: Float[np.ndarray, "3"],
    ) -> Motion:
        """Frames of a performance, and the reference at rest in a pose of its own, looking at the camera."""
        closed, ahead = np.zeros((1, len(ACTION_NAMES)), np.float32), np.zeros((1, 2), np.float32)
        if isinstance(who, SketchIdentity):
            (reference,), (person,) = self.sketches.render(who, closed, reference_pose[None], ahead)
            frames, heads = self.sketches.render(who, actions, pose, gaze)
            return _drawn_motion(frames, heads, reference, person, pose, reference_pose)
        reference = self.renderer.render(who, closed, reference_pose[None], ahead)[0]
        if isinstance(who, CartoonIdentity):
            frames = self.renderer.render(who, actions, pose, gaze)
            heads, person = np.ones(frames.shape[:3], bool), np.ones(reference.shape[:2], bool)
            return _drawn_motion(frames, heads, reference, person, pose, reference_pose)
        frames = self.renderer.render(who, actions, pose, gaze)
        with self.renderer.context:
            scene = self.renderer.scene_of(who)
            (flow, label, visible), person = self._flows(scene, actions, pose, reference_pose)
        return Motion(frames, reference, flow, label, visible, person)

    def _flows(
        self, scene: Scene, actions: np.ndarray, pose: np.ndarray, reference_pose: np.ndarray
    ) -> tuple[list[np.ndarray], Bool[np.ndarray, "256 256"]]:
        """Flow, label and visibility of the pictures, and the person in the reference."""
        context = self.renderer.context
        rest = np.concatenate([scene.face, scene.rigid[:, :3]])
        still = context.buffer(np.concatenate([rest, scene.follow[:, None]], 1).astype("f4").tobytes())
        layout = [(scene.moving, "3f 12x", "position"), (still, "3f 1f", "reference", "follow")]
        surface = context.vertex_array(self.program, layout, scene.index)
        eyes = context.vertex_array(self.program, layout, scene.eye_index)
        set_matrix(self.program, "reference_turn", turn_matrix(*reference_pose))

        def draw(vertices: np.ndarray, turned: np.ndarray, side: int) -> np.ndarray:
            scene.move(vertices)
            self.renderer.set_turn(turned)
            return self._draw(scene, surface, eyes, side)

        seen = draw(scene.face, reference_pose, DEPTH_GRID)
        depth = np.where(seen[..., 3] > 0, seen[..., 2], np.inf)
        cells = [_cells(draw(v, p, GRID), depth) for v, p in zip(animate(scene.face, actions), pose, strict=True)]
        for resource in (surface, eyes, still):
            resource.release()
        return [np.stack(parts) for parts in zip(*cells, strict=True)], seen[..., 3] > 0

    def _draw(self, scene: Scene, surface: moderngl.VertexArray, eyes: moderngl.VertexArray, side: int) -> np.ndarray:
        """Place in the reference (x, y up), distance there, label + 1, of each cell; rows from the top."""
        context, target = self.renderer.context, self.targets[side]
        target.use()
        target.clear(0, 0, 0, 0, depth=1.0)
        context.enable(moderngl.DEPTH_TEST | moderngl.CULL_FACE)
        self.program["label"] = float(EYE)
        eyes.render()
        self.program["label"] = float(SURFACE)
        surface.render(vertices=scene.num_solid)
        context.disable(moderngl.CULL_FACE)
        surface.render(vertices=scene.num_sheets, first=scene.num_solid)
        return np.frombuffer(target.read(components=4, dtype="f4"), np.float32).reshape(side, side, 4)[::-1]


def _drawn_motion(
    frames: UInt8[np.ndarray, "f h w 3"],
    heads: Bool[np.ndarray, "f h w"],
    reference: UInt8[np.ndarray, "h w 3"],
    person: Bool[np.ndarray, "h w"],
    pose: Float[np.ndarray, "f 3"],
    reference_pose: Float[np.ndarray, "3"],
) -> Motion:
    """A drawn head moves as one; mouth and eyes that are drawn anew have its flow."""
    flow = np.stack([cartoon_flow(p, reference_pose, GRID) for p in pose]).astype(np.float16)
    step = heads.shape[1] // GRID
    label = np.where(heads[:, step // 2 :: step, step // 2 :: step], SURFACE, BACKGROUND).astype(np.uint8)
    shown = np.abs(flow + _cell_places() - (GRID - 1) / 2).max(-1) <= GRID / 2
    large = cv2.resize(person.astype(np.uint8), (DEPTH_GRID, DEPTH_GRID), interpolation=cv2.INTER_NEAREST)
    return Motion(frames, reference, flow, label, shown, large.astype(bool))


def _float_target(context: moderngl.Context, side: int) -> moderngl.Framebuffer:
    return context.framebuffer([context.texture((side, side), 4, dtype="f4")], context.depth_renderbuffer((side, side)))


def _cell_places() -> Float[np.ndarray, "64 64 2"]:
    y, x = np.mgrid[0:GRID, 0:GRID]
    return np.stack([x, y], -1).astype(np.float32)


def _cells(
    drawn: Float[np.ndarray, "64 64 4"], depth: Float[np.ndarray, "256 256"]
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Flow in cells, label and visibility, from what `_draw` wrote and the reference's depth map."""
    x, y, distance, label = drawn[..., 0], -drawn[..., 1], drawn[..., 2], drawn[..., 3].round().astype(np.uint8)
    column = ((x + 1) / 2 * DEPTH_GRID).astype(int).clip(0, DEPTH_GRID - 1)
    row = ((y + 1) / 2 * DEPTH_GRID).astype(int).clip(0, DEPTH_GRID - 1)
    person = label > 0
    with np.errstate(invalid="ignore"):
        shown = np.abs(depth[row, column] - distance) < DEPTH_TOLERANCE
    shown &= (np.abs(x) < 1) & (np.abs(y) < 1)
    behind = np.isinf(depth.reshape(GRID, DEPTH_GRID // GRID, GRID, -1)).all((1, 3))
    flow = np.stack([x, y], -1) * GRID / 2 + (GRID - 1) / 2 - _cell_places()
    return _extended(flow, person).clip(-GRID, GRID).astype(np.float16), label, np.where(person, shown, behind)


def _extended(flow: Float[np.ndarray, "64 64 2"], person: Bool[np.ndarray, "64 64"]) -> Float[np.ndarray, "64 64 2"]:
    """The person's flow continued over the background: a layer that is warped as a whole needs it beyond its edge."""
    outside = (~person).astype(np.uint8)
    found = cv2.distanceTransformWithLabels(outside, cv2.DIST_L2, cv2.DIST_MASK_5, labelType=cv2.DIST_LABEL_PIXEL)
    nearest = np.asarray(found[1], np.int64)
    source = np.zeros(int(nearest.max()) + 1, int)  # a person's cell by its number
    source[nearest[person]] = np.flatnonzero(person)
    return flow.reshape(-1, 2)[source[nearest]]
