"""Faces of a film, followed from picture to picture: the first of two passes."""

import math
import os
from array import array
from bisect import bisect_left
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from jaxtyping import Float, UInt8

from gwm.autoencoders.motion.paste import square_around
from gwm.files.outputs import whole_file
from gwm.media.face import EYE_CORNERS, LOWER_LIP, UPPER_LIP, FaceMesh, head_yaw, square_of
from gwm.media.framing import Box
from gwm.media.refilm import Film
from gwm.media.shots import MIN_CHANGE, ChangeMeter, thumbnail
from gwm.metrics.identity import Embed

LOOK_EVERY = 5  # pictures between two searches for faces; between them, those that are known are followed
SMALLEST_PX = 48  # of a face's square: mouths of smaller ones are a few pixels
STRAY, SWELL = 0.5, 1.6  # how far a face may be from where it was, in squares, and how many times larger or smaller
EMBED_EVERY = 50  # pictures of a face between two looks at whose it is: each takes 0.1 s
WIDE_OPEN = 5.0  # radians of a turned head that are as far from rest as lips that are as far apart as a square is wide
NUM_LANDMARKS = 468
POINT_BYTES = NUM_LANDMARKS * 3 * 4  # of the landmarks of one picture
KNOWN = ("pictures", "yaws", "sizes", "middle", "embeddings", "best")  # of a track
# Weights of the pictures around one, as landmarks shake: with a deviation of 2, the border of a mask flickers less
# than with 1, and nods are still followed.
WIDE = 5
SMOOTH = np.exp(-0.5 * (np.arange(-WIDE, WIDE + 1) / 2.0) ** 2)


@dataclass(frozen=True, slots=True)
class Calm:
    """The picture of a face in which its mouth is the most closed, and its head the most straight."""

    unrest: float
    gap: float  # between the lips, in squares
    picture: UInt8[np.ndarray, "s s 3"]  # the face's square and as much again around it
    points: Float[np.ndarray, "468 3"]  # in its px

    @property
    def box(self) -> Box:
        return box_of(self.points)


@dataclass(slots=True)
class Track:
    """One face from where it comes into view until it is lost or the film is cut. What is large lies in files."""

    path: Path  # without suffix
    pictures: array = field(default_factory=lambda: array("l"))
    yaws: array = field(default_factory=lambda: array("f"))
    sizes: array = field(default_factory=lambda: array("f"))
    middle: tuple[float, float] = (0.0, 0.0)  # in the first picture
    embeddings: list[Float[np.ndarray, "128"]] = field(default_factory=list)
    looked: int = -EMBED_EVERY
    unrest: float = math.inf
    gap: float = math.inf

    def __len__(self) -> int:
        return len(self.pictures)

    @property
    def stop(self) -> int:
        """The picture after its last one."""
        return self.pictures[-1] + 1

    def add(self, picture: int, points: Float[np.ndarray, "468 3"], rgb: UInt8[np.ndarray, "h w 3"]) -> None:
        """The next picture that shows it; the calmest one is kept."""
        middle, size = square_of(points)
        if not len(self):
            self.middle = (float(middle[0]), float(middle[1]))
        self.pictures.append(picture)
        self.sizes.append(size)
        self.yaws.append(yaw := head_yaw(points))
        with self.path.with_suffix(".points").open("ab") as file:
            file.write(points.astype(np.float32).tobytes())
        gap = float(np.linalg.norm(points[UPPER_LIP] - points[LOWER_LIP])) / size
        if (unrest := WIDE_OPEN * gap + abs(yaw)) < self.unrest:
            square = square_around(middle, 2 * size)
            own = (points - [square.left, square.top, 0]).astype(np.float32)
            np.savez(self.path.with_suffix(".npz"), unrest=unrest, gap=gap, picture=square.cut(rgb), points=own)
            self.unrest, self.gap = unrest, gap

    def known(self) -> dict[str, np.ndarray]:
        """All but what lies in files, for `of`."""
        embeddings = np.array(self.embeddings, np.float32)  # there may be none: whose a face is may never be seen
        found = self.pictures, self.yaws, self.sizes, self.middle, embeddings, (self.looked, self.unrest, self.gap)
        return {name: np.array(value) for name, value in zip(KNOWN, found, strict=True)}

    @classmethod
    def of(cls, path: Path, known: Mapping[str, np.ndarray]) -> "Track":
        pictures, yaws, sizes, middle, embeddings, (looked, unrest, gap) = (known[name] for name in KNOWN)
        return cls(
            path,
            *(array("l", pictures), array("f", yaws), array("f", sizes), (float(middle[0]), float(middle[1]))),
            *(list(embeddings), int(looked), float(unrest), float(gap)),
        )

    def calm(self) -> Calm:
        with np.load(self.path.with_suffix(".npz")) as file:
            return Calm(float(file["unrest"]), float(file["gap"]), file["picture"], file["points"])

    def points(self, place: int) -> Float[np.ndarray, "468 3"]:
        """Landmarks of its picture at a place of `pictures`, smoothed over its neighbours."""
        stored = np.memmap(self.path.with_suffix(".points"), np.float32, "r").reshape(-1, NUM_LANDMARKS, 3)
        first, last = max(place - WIDE, 0), min(place + WIDE + 1, len(self))
        weights = np.array(
            [
                SMOOTH[k - place + WIDE] if self.pictures[k] - self.pictures[place] == k - place else 0.0
                for k in range(first, last)
            ]
        )
        return np.tensordot(weights / weights.sum(), stored[first:last], axes=1).astype(np.float32)

    def place(self, picture: int) -> int | None:
        """Of a picture among those that show it."""
        place = bisect_left(self.pictures, picture)
        return place if place < len(self) and self.pictures[place] == picture else None


def box_of(points: Float[np.ndarray, "468 3"]) -> Box:
    """The face's square, upright for the face."""
    (x, y), side = square_of(points)
    across, down, _ = points[EYE_CORNERS[3]] - points[EYE_CORNERS[0]]
    return Box(float(x), float(y), side, side, math.atan2(down, across))


@dataclass(frozen=True, slots=True)
class Survey:
    """What is known of a film after the first pass."""

    moments_s: Float[np.ndarray, " n"]  # of its pictures, from the first
    height: int  # upright, in px
    width: int
    tracks: list[Track]  # in order of their first pictures

    @property
    def length_s(self) -> float:
        """The last picture stays as long as the one before."""
        moments = self.moments_s
        return float(2 * moments[-1] - moments[-2] if len(moments) > 1 else 1 / 25)


class Follower:
    """Faces that are in view now."""

    def __init__(self, folder: Path, mesh: FaceMesh, embed: Embed | None) -> None:
        self.folder, self.mesh, self.embed = folder, mesh, embed
        self.now: list[tuple[Track, Float[np.ndarray, "468 3"]]] = []
        self.tracks: list[Track] = []
        self.wait = 0  # pictures until the next search

    def add(self, picture: int, rgb: UInt8[np.ndarray, "h w 3"], *, changed: bool) -> None:
        """The next picture; `changed`: it may begin a shot, in which nothing is where it was."""
        kept = list[tuple[Track, Float[np.ndarray, "468 3"]]]()
        for track, old in [] if changed else self.now:
            points = self.mesh.followed(rgb, old)
            if points is not None and _near(points, old) and not any(_near(points, other) for _, other in kept):
                kept.append((track, points))
        lost = [] if changed else [(track, old) for track, old in self.now if all(track is not one for one, _ in kept)]
        if changed or lost or self.wait == 0:
            for points in self.mesh.all_landmarks(rgb):
                if square_of(points)[1] >= SMALLEST_PX and not any(_near(points, known) for _, known in kept):
                    again = next((one for one in lost if _near(points, one[1])), None)
                    if again is not None:
                        lost.remove(again)
                    kept.append((self._new() if again is None else again[0], points))
            self.wait = LOOK_EVERY
        self.wait -= 1
        for track, points in kept:
            track.add(picture, points, rgb)
            if self.embed is not None and picture - track.looked >= EMBED_EVERY:
                track.looked = picture
                self._embed(track, points, rgb)
        self.now = kept

    def _new(self) -> Track:
        self.tracks.append(Track(self.path(len(self.tracks))))
        return self.tracks[-1]

    def path(self, number: int) -> Path:
        """Of a track's files, without suffix."""
        return self.folder / f"{number:06d}"

    def _embed(self, track: Track, points: Float[np.ndarray, "468 3"], rgb: UInt8[np.ndarray, "h w 3"]) -> None:
        middle, size = square_of(points)
        found = None if self.embed is None else self.embed(square_around(middle, 1.5 * size).cut(rgb))
        if found is not None:
            track.embeddings.append(found)


def _near(points: Float[np.ndarray, "468 3"], old: Float[np.ndarray, "468 3"]) -> bool:
    (now, size), (then, before) = square_of(points), square_of(old)
    return bool(np.linalg.norm(now - then) <= STRAY * before) and max(size / before, before / size) <= SWELL


def survey_film(
    film: Film,
    folder: Path,
    *,
    mesh: FaceMesh,
    embed: Embed | None,
    seen: Callable[[], object],
    keep_every: int | None = None,
) -> Survey:
    """Play a film once; `seen` is called after every picture, `folder` takes what is large.

    keep_every: pictures after which what is known so far is kept in `folder`; a later call goes on from there, and only
        plays what was seen before. None: nothing is kept.

    Raises:
        ValueError: there is no picture in it, or colours that cannot be converted.
    """
    change, follower = ChangeMeter(), Follower(folder, mesh, embed)
    state = State(folder / "survey.npz")
    if keep_every is not None:
        state.restore(follower)
    to_rgb = film.rgb_reader()
    for number, (moment_s, frame) in enumerate(() if state.finished else film):
        change.add(thumbnail(frame))
        seen()
        if number < len(state.moments):
            continue
        state.moments.append(moment_s)
        rgb = np.ascontiguousarray(to_rgb(frame))
        state.height, state.width = rgb.shape[:2]
        follower.add(number, rgb, changed=change.step[-1] >= MIN_CHANGE)
        if keep_every is not None and (number + 1) % keep_every == 0:
            state.keep(follower)
    if not state.moments:
        raise ValueError(f"{film.path} has 0 frames, must have at least one. Record or export it again.")
    if keep_every is not None and not state.finished:
        state.finished = True
        state.keep(follower)
    return Survey(np.array(state.moments), state.height, state.width, follower.tracks)


@dataclass(slots=True)
class State:
    """What is known of a film so far, in a file that is written whole or not at all."""

    path: Path
    moments: array = field(default_factory=lambda: array("d"))
    height: int = 0
    width: int = 0
    finished: bool = False

    def keep(self, follower: Follower) -> None:
        numbers = {id(track): number for number, track in enumerate(follower.tracks)}
        parts: dict[str, np.ndarray] = {
            "moments": np.array(self.moments),
            "facts": np.array([self.height, self.width, self.finished, follower.wait, len(follower.tracks)]),
            "in_view": np.array([numbers[id(track)] for track, _ in follower.now], int),
            "landmarks": np.array([points for _, points in follower.now], np.float32),
        }
        for number, track in enumerate(follower.tracks):
            parts |= {f"{number}/{name}": value for name, value in track.known().items()}
        with whole_file(self.path) as partial:
            np.savez(partial, allow_pickle=False, **parts)

    def restore(self, follower: Follower) -> None:
        """What was kept last; what was written into files afterwards is taken away. Nothing, where nothing is kept."""
        tracks = list[Track]()
        if self.path.is_file():
            with np.load(self.path) as kept:
                self.moments = array("d", kept["moments"])
                self.height, self.width, finished, follower.wait, count = map(int, kept["facts"])
                self.finished = bool(finished)
                for number in range(count):
                    known = {name: kept[f"{number}/{name}"] for name in KNOWN}
                    tracks.append(Track.of(follower.path(number), known))
                follower.tracks = tracks
                pairs = zip(kept["in_view"].tolist(), kept["landmarks"], strict=True)
                follower.now = [(tracks[number], points) for number, points in pairs]
        for file in follower.folder.glob("*.points"):
            number = int(file.stem)
            if number < len(tracks):
                os.truncate(file, len(tracks[number]) * POINT_BYTES)
            else:
                file.unlink()
