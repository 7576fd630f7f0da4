"""First of two passes through a video: when its pictures are shown, where it is cut, where the face is."""

import math
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import numpy as np
from jaxtyping import Float, Int, UInt8

from data.footage.video_file import opened, picture_stream
from gwm.clock import FPS
from gwm.media.decoding import Damage
from gwm.media.face import EYE_CORNERS, LOWER_LIP, UPPER_LIP, FaceMesh, face_square, head_yaw, square_of
from gwm.media.shots import ChangeMeter, find_cuts, thumbnail
from gwm.media.video_frames import RgbReader, pictures, pixel_aspect


def shown_pictures(times_s: Float[np.ndarray, " n"], end_s: float, fps: int) -> Int[np.ndarray, " f"]:
    """Which picture is on the screen in the middle of each frame of a steady clock that starts at 0."""
    num_frames = int(end_s * fps + 0.5)
    middles = (np.arange(num_frames) + 0.5) / fps
    return (np.searchsorted(times_s, middles, side="right") - 1).clip(0)


def scene_frames(shown: Int[np.ndarray, " f"], cuts: list[int]) -> list[range]:
    """Frames of each shot, in order, on the clock of `shown`; shots that no frame shows are left out."""
    scene = np.searchsorted(np.array(cuts, dtype=int), shown, side="right")
    edges = [0, *(np.flatnonzero(np.diff(scene)) + 1).tolist(), len(shown)]
    return [range(a, b) for a, b in pairwise(edges) if a < b]


WIDE_OPEN = 5.0  # radians of a turned head that are as far from rest as a mouth as open as the face's square is wide


@dataclass(frozen=True, slots=True)
class Square:
    """Part of an upright picture, in its px."""

    x: float  # of the middle
    y: float
    size: float
    angle: float = 0.0  # radians, clockwise, by which the face in it is turned
    unrest: float = 0.0  # the more, the wider its mouth is open and the farther it looks to the side


@dataclass(frozen=True, slots=True)
class Survey:
    """Contents of a video on a clock of 24 fps that starts at its first picture."""

    start_s: float  # of the first picture, on the container's clock
    shown: Int[np.ndarray, " f"]  # the picture on the screen in each frame
    scenes: list[range]  # of frames
    faces: dict[int, Square | None]  # by picture, for those that were looked at
    height: int  # upright, in px
    width: int
    source_fps: float
    damage: Damage


def survey_video(path: Path, *, look_every_s: float, mesh: FaceMesh | None) -> Survey:
    """Play a video once. Without a mesh no face is looked for.

    Raises:
        UnusableError: FFmpeg finds no picture in it.
    """
    times: list[float] = []
    change = ChangeMeter()
    faces: dict[int, Square | None] = {}
    next_look_s, height, width = 0.0, 0, 0
    damage = Damage()
    with opened(path) as container:
        stream = picture_stream(container)
        to_rgb = RgbReader(pixel_aspect(stream))
        for index, (moment, frame) in enumerate(pictures(container, stream, damage)):
            times.append(moment)
            change.add(thumbnail(frame))
            if moment - times[0] >= next_look_s:
                rgb = to_rgb(frame)
                height, width = rgb.shape[:2]
                faces[index] = None if mesh is None else _face(rgb, mesh)
                next_look_s = moment - times[0] + look_every_s
    clock = np.array(times) - times[0] if times else np.zeros(0)
    end_s = _end(clock)
    shown = shown_pictures(clock, end_s, FPS) if times else np.zeros(0, int)
    cuts = find_cuts(np.array(change.step), np.array(change.skip))
    scenes = scene_frames(shown, cuts)
    fps = (len(times) - 1) / clock[-1] if len(times) > 1 else 0.0
    return Survey(times[0] if times else 0.0, shown, scenes, faces, height, width, round(float(fps), 3), damage)


def _face(rgb: UInt8[np.ndarray, "h w 3"], mesh: FaceMesh) -> Square | None:
    points = mesh.landmarks(rgb)
    if points is None:
        found = face_square(rgb, mesh)
        return None if found is None else Square(float(found[0][0]), float(found[0][1]), found[1])
    (x, y), side = square_of(points)
    across, down, _ = points[EYE_CORNERS[3]] - points[EYE_CORNERS[0]]
    gap = float(np.linalg.norm(points[UPPER_LIP] - points[LOWER_LIP])) / side
    return Square(float(x), float(y), side, math.atan2(down, across), WIDE_OPEN * gap + abs(head_yaw(points)))


def _end(times_s: Float[np.ndarray, " n"]) -> float:
    """When the last picture goes: it stays as long as the median one; a single picture, one frame."""
    if len(times_s) == 0:
        return 0.0
    return float(times_s[-1] + (np.median(np.diff(times_s)) if len(times_s) > 1 else 1 / FPS))
