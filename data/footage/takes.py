"""Which parts of a surveyed video become clips, each with its crop and a reference frame outside it."""

import math
import zlib
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any, Literal, get_args

import numpy as np
from jaxtyping import Int

from data.footage.survey import Square, Survey
from gwm.condition.spec import Kind
from gwm.media.framing import Box, framed_centre, framed_face
from gwm.resolution import Resolution

MIN_MULTIPLE = 16
FaceRule = Literal["required", "prefer", "off"]
SEEN_SHARE = 0.8  # of the looks into a clip: with fewer, the face is turned away or another's
STRAY, SWELL = 0.35, 1.6  # how far a face may be from its clip's crop, in crops, and how many times larger or smaller
REFERENCE_STRAY = 1.0  # the same, of the reference frame: the person may have moved, but is not another one
FOLLOW_FRAMES = (
    3  # deviation in time; lips of a driver (carphone), encoded and decoded: correlation 0.81, unfollowed 0.35
)
REFERENCE_REACH_S = 10  # people and light are the same, and few frames wait for each other in memory


@dataclass(frozen=True, kw_only=True, slots=True)
class TakeRules:
    """Requirements for a clip. Everything here determines the bytes of the shards."""

    resolution: Resolution
    num_frames: int  # at 24 fps
    face: FaceRule  # required: clips without one are dropped; prefer: they keep the centre; off: all do
    look_every_s: float  # between two looks for a face
    reference_gap: int  # frames, at least, between a clip and its reference frame
    max_enlargement: float  # of a crop: 2 means that half the resolution's px must really be there
    follow: bool = False  # each picture is framed by its own face, upright, as motion autoencoders are trained
    actions: Mapping[str, Any] = field(default_factory=dict)  # of gameplay: each name with its `Kind`
    lag_s: float | int = 0.0  # from an action to the first picture that it changed, in these recordings

    def __post_init__(self) -> None:
        if self.face not in get_args(FaceRule):
            raise ValueError(f"face={self.face!r} must be one of {get_args(FaceRule)}.")
        if self.num_frames < 4 or self.num_frames % 4:
            raise ValueError(f"num_frames={self.num_frames} must be a multiple of 4: the autoencoder packs four.")
        self.resolution.check_multiple(MIN_MULTIPLE, of="VAE stride 8 * patch 2, the minimum of all models")
        if self.follow and (self.face != "required" or not self.resolution.is_square):
            raise ValueError(
                f"follow=true must have face=required, not {self.face}, and a square resolution, not "
                f"{self.resolution}: what is followed is a face's square."
            )
        self._check_actions()
        if self.reference_gap < 1:
            raise ValueError(f"reference_gap={self.reference_gap} must be at least 1: the reference is no clip frame.")
        if self.look_every_s <= 0 or self.max_enlargement <= 0:
            raise ValueError(
                f"look_every_s={self.look_every_s} and max_enlargement={self.max_enlargement} must be above 0."
            )

    def _check_actions(self) -> None:
        if self.actions and self.face != "off":
            raise ValueError(
                f"actions={dict(self.actions)} must have face=off, not {self.face}: games are shown whole."
            )
        for name, kind in self.actions.items():
            if kind not in get_args(Kind):
                raise ValueError(f"actions.{name}={kind!r} must be one of {', '.join(get_args(Kind))}.")
        if not 0 <= self.lag_s < 1:
            raise ValueError(f"lag_s={self.lag_s} must be in [0, 1): seconds from an action to its picture.")


@dataclass(frozen=True, slots=True)
class Take:
    """One clip to be cut: frames `start` and on, and the frame that serves as reference, each with its crop."""

    start: int
    boxes: tuple[Box, ...]  # of each frame
    reference: int
    reference_box: Box
    with_face: bool  # else the middle of the picture, where the rules prefer a face and none is seen


def plan_takes(survey: Survey, rules: TakeRules, fps: int) -> tuple[list[Take], Counter[str]]:
    """Clips end to end through every shot, and the frames that were left out, by reason."""
    takes: list[Take] = []
    dropped: Counter[str] = Counter()
    looks = np.array(sorted(survey.faces), dtype=int)
    look_frames = np.searchsorted(survey.shown, looks)  # the frame that shows the picture, or the one right after it
    for scene in survey.scenes:
        if len(scene) <= rules.num_frames + (0 if rules.actions else rules.reference_gap):
            dropped["scene_too_short"] += len(scene)
            continue
        if rules.actions:  # the first picture can only be a reference
            dropped["rest"] += 1
            scene = range(scene.start + 1, scene.stop)
        dropped["rest"] += len(scene) % rules.num_frames
        first = survey.shown[scene.start]
        inside = [(f, p) for f, p in zip(look_frames.tolist(), looks.tolist()) if f in scene and p >= first]
        for start in range(scene.start, scene.stop - rules.num_frames + 1, rules.num_frames):
            take = _take(survey, rules, start, inside, reach=REFERENCE_REACH_S * fps)
            if isinstance(take, Take):
                takes.append(take)
            else:
                dropped[take] += rules.num_frames
    return takes, +dropped


def _take(survey: Survey, rules: TakeRules, start: int, looks: list[tuple[int, int]], *, reach: int) -> Take | str:
    """The clip at `start`, or the reason why there is none; `looks` holds (frame, picture) of its shot."""
    stop = start + rules.num_frames
    centre = Square(survey.width / 2, survey.height / 2, float(min(survey.width, survey.height)))
    square: Square | str = centre
    if rules.face != "off":
        faces = [survey.faces[picture] for frame, picture in looks if start <= frame < stop]
        square = face_crop(faces, follow=rules.follow)
    with_face = isinstance(square, Square) and rules.face != "off"
    if isinstance(square, str):
        if rules.face == "required":
            return square
        square = centre
    box = _framed(survey, square if with_face else None, rules.resolution)
    if box.height * rules.max_enlargement < rules.resolution.height:
        return "too_small"
    if rules.actions:
        return Take(start, (box,) * rules.num_frames, start - 1, box, with_face)
    outside: list[tuple[int, Square]] = []
    for frame, picture in looks:
        away = max(start - frame, frame - stop + 1)
        crop = survey.faces[picture] if with_face else centre
        if rules.reference_gap <= away <= reach and crop is not None and near(square, crop, stray=REFERENCE_STRAY):
            outside.append((frame, crop))
    if not outside:
        return "no_reference"
    if rules.follow:
        seen = [(frame, face) for frame, picture in looks if (face := survey.faces[picture]) is not None]
        boxes = followed(seen, np.arange(start, stop), square.size)
        reference, shown = min(outside, key=lambda look: look[1].unrest)
        return Take(start, boxes, reference, upright(shown), with_face)
    # Any of them, but the same one on every run: neither the nearest nor the first may become a habit of the data.
    reference, shown = outside[zlib.crc32(str(start).encode()) % len(outside)]
    other = _framed(survey, shown if with_face else None, rules.resolution)
    return Take(start, (box,) * rules.num_frames, reference, other, with_face)


def upright(face: Square) -> Box:
    """The face's own square, turned so that its eyes are level."""
    return Box(face.x, face.y, face.size, face.size, face.angle)


def followed(looks: list[tuple[int, Square]], frames: Int[np.ndarray, " f"], size: float) -> tuple[Box, ...]:
    """A box of one size for each frame that goes with the face: a weighted mean of the looks near it in time, as single
    landmarks shake with the lips and from picture to picture."""
    at = np.array([frame for frame, _ in looks])
    apart = float(np.median(np.diff(at))) if len(at) > 1 else 1.0
    weights = np.exp(-0.5 * ((frames[:, None] - at) / max(FOLLOW_FRAMES, apart)) ** 2) + 1e-12
    places = weights @ np.array([(face.x, face.y, face.angle) for _, face in looks]) / weights.sum(1, keepdims=True)
    return tuple(Box(x, y, size, size, angle) for x, y, angle in places.tolist())


def _framed(survey: Survey, face: Square | None, resolution: Resolution) -> Box:
    """The part of the picture that a clip shows: around a face, or the middle."""
    picture = survey.height, survey.width
    if face is None:
        return framed_centre(picture, resolution)
    return framed_face(picture, (face.x, face.y), face.size, resolution)


def face_crop(faces: list[Square | None], *, follow: bool) -> Square | str:
    """One square for a whole clip, in which the head moves as it did, or the middle one of those that follow it; or why
    there is none."""
    seen = [face for face in faces if face is not None]
    if not seen or len(seen) < SEEN_SHARE * len(faces):
        return "no_face"
    square = Square(*(float(v) for v in np.median([(f.x, f.y, f.size) for f in seen], axis=0)))
    steps = pairwise(seen) if follow else ((square, face) for face in seen)
    return square if all(near(before, face, stray=STRAY) for before, face in steps) else "face_moves"


def near(square: Square, face: Square, *, stray: float) -> bool:
    """Whether a face is at most `stray` crops away from a crop, and about as large."""
    away = math.hypot(face.x - square.x, face.y - square.y)
    return away <= stray * square.size and max(face.size / square.size, square.size / face.size) <= SWELL
