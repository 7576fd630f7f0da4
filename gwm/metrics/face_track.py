"""The landmarks of a face in every frame of a clip, and what is measured on them: lips, head, eyes, the mouth's
pixels."""

import numpy as np
from jaxtyping import Float, UInt8
from PIL import Image

from gwm.clock import FPS
from gwm.media.face import CHIN, EYE_CORNERS, FOREHEAD, LIP_CORNERS, LOWER_LIP, NOSE_BASE, UPPER_LIP, FaceMesh

Track = Float[np.ndarray, "f 468 3"]  # landmarks in px; NaN where no face is found
NUM_LANDMARKS = 468
EYE_PATCH = (0.45, 0.3)  # half width and half height of the patch inside an eye, in widths of the eye
MOUTH_SQUARE = 1.0  # side of the square around the mouth, in distances of the outer eye corners


def face_track(frames: UInt8[np.ndarray, "f h w 3"], mesh: FaceMesh) -> Track:
    """Landmarks of every frame; NaN where no face is found."""
    missing = np.full((NUM_LANDMARKS, 3), np.nan, np.float32)
    found = [mesh.landmarks(frame) for frame in frames]
    return np.stack([missing if points is None else points for points in found])


def seen(track: Track) -> float:
    """Share of frames with a face."""
    return float(np.isfinite(track[:, 0, 0]).mean())


def lip_gap(track: Track) -> Float[np.ndarray, " f"]:
    """Gap between the lips' inner edges over the face's height, in three dimensions, so that a nod does not close the
    mouth."""
    gap = np.linalg.norm(track[:, UPPER_LIP] - track[:, LOWER_LIP], axis=-1)
    return gap / _height(track)


def _height(track: Track) -> Float[np.ndarray, " f"]:
    return np.linalg.norm(track[:, FOREHEAD] - track[:, CHIN], axis=-1)


def head_pitch(track: Track) -> Float[np.ndarray, " f"]:
    """Radians upwards, up to an offset that is the face's own: of the line from forehead to chin against the picture.

    On renders of 35 people the correlation with the true pitch is 0.85 in the median, its slope 1.0.
    """
    line = track[:, CHIN] - track[:, FOREHEAD]
    return -np.arctan2(line[:, 2], line[:, 1])


def head_place(track: Track) -> Float[np.ndarray, "f 2"]:
    """Middle of what neither speech nor mood moves, corners of the eyes and base of the nose, in face heights."""
    return track[:, (*EYE_CORNERS, NOSE_BASE), :2].mean(axis=1) / np.nanmean(_height(track))


def speed(path: Float[np.ndarray, "f *k"]) -> float:
    """Mean length of the change a second, of a path that is averaged over three frames, as the mesh jitters."""
    smooth = (path[:-2] + path[1:-1] + path[2:]) / 3
    return FPS * float(np.nanmean(np.linalg.norm(np.diff(smooth, axis=0).reshape(len(smooth) - 1, -1), axis=-1)))


def eye_contrast(frames: UInt8[np.ndarray, "f h w 3"], track: Track) -> Float[np.ndarray, " f"]:
    """Standard deviation of the brightness inside both eyes, in grey levels: high where white, iris and lashes are
    seen, low where a lid is. NaN without a face.

    The mesh's own eyelids do not follow blinks at 128 px (correlation -0.5 with the true lids, this: -0.9).
    """
    return np.array([_contrast(frame, points) for frame, points in zip(frames, track, strict=True)])


def _contrast(frame: UInt8[np.ndarray, "h w 3"], points: Float[np.ndarray, "468 3"]) -> float:
    if np.isnan(points[0, 0]):
        return float("nan")
    eyes = (EYE_CORNERS[:2], EYE_CORNERS[2:])
    return float(np.mean([_eye_patch(frame, points[list(corners), :2]).std() for corners in eyes]))


def _eye_patch(frame: UInt8[np.ndarray, "h w 3"], corners: Float[np.ndarray, "2 2"]) -> Float[np.ndarray, "h2 w2"]:
    """Brightness of a patch around the middle of an eye, at least one pixel; moved inside the picture."""
    half = np.maximum(np.linalg.norm(corners[0] - corners[1]) * np.array(EYE_PATCH), 0.5)
    limit = np.array(frame.shape[1::-1]) - 1
    (left, top), (right, bottom) = np.round([corners.mean(0) - half, corners.mean(0) + half]).clip(0, limit).astype(int)
    return frame[top : bottom + 1, left : right + 1].mean(axis=-1)


def mouth_crops(
    frames: UInt8[np.ndarray, "f h w 3"], track: Track, resolution: int
) -> UInt8[np.ndarray, "f {resolution} {resolution} 3"]:
    """A square around the mouth, in a size that does not follow the jaw; black where no face is found."""
    return np.stack([_mouth(frame, points, resolution) for frame, points in zip(frames, track, strict=True)])


def _mouth(
    frame: UInt8[np.ndarray, "h w 3"], points: Float[np.ndarray, "468 3"], resolution: int
) -> UInt8[np.ndarray, "r r 3"]:
    if np.isnan(points[0, 0]):
        return np.zeros((resolution, resolution, 3), np.uint8)
    image = Image.fromarray(frame)
    middle = points[list(LIP_CORNERS), :2].mean(axis=0)
    side = min(
        MOUTH_SQUARE * float(np.linalg.norm(points[EYE_CORNERS[0], :2] - points[EYE_CORNERS[3], :2])), *image.size
    )
    left, top = (middle - side / 2).clip(0, np.array(image.size) - side).tolist()
    box = (left, top, min(left + side, image.width), min(top + side, image.height))
    return np.asarray(image.resize((resolution, resolution), Image.Resampling.BILINEAR, box=box))
