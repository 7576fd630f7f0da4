"""Which px of which pictures of a film are drawn anew."""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import repeat
from pathlib import Path

import av
import numpy as np
from jaxtyping import Bool, UInt8

from gwm.media.face import FaceMesh
from gwm.media.images import read_image
from gwm.media.refilm import Film, open_film
from gwm.media.stored_picture import canvas_place, on_canvas, writable
from gwm.media.video import container_of
from gwm.metrics.identity import FaceEmbedding
from serve.dubbing.mouths import mouth_mask
from serve.dubbing.people import people_of
from serve.dubbing.tracks import Survey, Track, survey_film
from serve.editing.request import MOUTH, EditRequest

Drawn = Bool[np.ndarray, "h w"]
HALF = 128  # of a mask's brightness: from here on it is white
STILL = (".png", ".jpg", ".jpeg", ".webp", ".bmp", ".tif", ".tiff", ".gif", ".avif")


@dataclass(frozen=True)
class Pictures:
    """The pictures of a film one after the other: moments, what is stored, upright RGB; both on the canvas."""

    film: Film
    codec: str
    canvas: tuple[int, int] | None  # upright height and width

    def __iter__(self) -> Iterator[tuple[float, av.VideoFrame, UInt8[np.ndarray, "h w 3"]]]:
        to_rgb = self.film.rgb_reader()
        for moment_s, stored in self.film:
            frame = writable(stored, self.codec)
            if self.canvas is None:
                yield moment_s, frame, np.ascontiguousarray(to_rgb(stored))
                continue
            mirrored, quarters = self.film.turn
            frame = on_canvas(frame, *(self.canvas[::-1] if quarters % 2 else self.canvas))
            rgb = to_rgb(frame)
            yield moment_s, frame, np.ascontiguousarray(np.rot90(rgb[:, ::-1] if mirrored else rgb, quarters))


def pictures_of(film: Film, request: EditRequest) -> Pictures:
    canvas = None if request.canvas is None else request.canvas_size.shape
    return Pictures(film, container_of(request.out).picture, canvas)


def survey_of(request: EditRequest, folder: Path) -> Survey:
    """Play the film once: times and size of its pictures, and its faces where a mouth is asked for; `folder` takes what
    is large.

    Raises:
        ValueError: the file is no video, or has no picture.
    """
    with open_film(request.video) as film:
        if request.mask == MOUTH:
            mesh = FaceMesh()
            return survey_film(film, folder, mesh=mesh, embed=FaceEmbedding(mesh), seen=lambda: None)
        moments, size, to_rgb = list[float](), (0, 0), film.rgb_reader()
        for moment_s, stored in film:
            size = size if moments else to_rgb(stored).shape[:2]
            moments.append(moment_s)
    if not moments:
        raise ValueError(f"{request.video} has 0 frames, must have at least one. Record or export it again.")
    return Survey(np.array(moments), size[0], size[1], [])


@dataclass(frozen=True)
class Regions:
    """What is drawn anew: iterate as often as wanted, one mask of the canvas for each picture."""

    request: EditRequest
    survey: Survey

    @property
    def size(self) -> tuple[int, int]:
        """Upright height and width of the new film."""
        return self._film_size if self.request.canvas is None else self.request.canvas_size.shape

    @property
    def _film_size(self) -> tuple[int, int]:
        return self.survey.height, self.survey.width

    def __iter__(self) -> Iterator[Drawn]:
        start_s, end_s = self.request.between or (0, math.inf)
        inside = iter(self._inside())
        around = np.ones(self.size, bool)
        place = canvas_place(self._film_size, self.size)
        film = tuple(slice(at, at + length) for at, length in zip(place, self._film_size, strict=True))
        if self.request.canvas is None:
            around[:] = False
        for moment_s in self.survey.moments_s:
            drawn, own = around.copy(), next(inside)
            drawn[film] = own if start_s <= moment_s < end_s else False
            yield drawn
        for _ in inside:  # a video that has more pictures than the film says so at its end
            pass

    def check(self) -> None:
        """Look at all masks, before anything is generated.

        Raises:
            ValueError: a canvas smaller than the film, a box or times outside of it, a mask of another size or
                number of pictures, no face, or nothing to draw.
        """
        request, length_s = self.request, self.survey.length_s
        if any(whole < own for whole, own in zip(self.size, self._film_size, strict=True)):
            raise ValueError(
                f"canvas={request.canvas} must be at least {self.survey.height}x{self.survey.width}, height x width of "
                f"{request.video}: a canvas is what the film becomes a part of. To cut, use an editor."
            )
        if request.between is not None and request.between[0] >= length_s:
            raise ValueError(
                f"between={list(request.between)} must begin before {request.video} ends, at {length_s:.2f} s."
            )
        if request.between is not None and request.between[1] > length_s + 1e-6:
            raise ValueError(
                f"between={list(request.between)} must end by {length_s:.2f} s, where {request.video} does."
            )
        if request.box is not None:
            x, y, width, height = request.box
            if x + width > self.survey.width or y + height > self.survey.height:
                raise ValueError(
                    f"box={list(request.box)} must lie in the picture of {self.survey.width} px across and "
                    f"{self.survey.height} px down."
                )
        if not sum(bool(drawn.any()) for drawn in self):  # to the end, where a video of another length says so
            raise ValueError(
                f"mask={request.mask} is black in all pictures that count, must be white where the film is drawn anew."
            )

    def _inside(self) -> Iterator[Drawn]:
        """In the film's own px, for every picture."""
        request = self.request
        if request.mask == MOUTH:
            return self._mouths()
        if request.mask is not None and Path(request.mask).suffix.lower() not in STILL:
            return self._moving(request.mask)
        drawn = np.zeros(self._film_size, bool)
        if request.mask is not None:
            drawn = np.asarray(read_image(request.mask).convert("L")) >= HALF
            self._check_size(drawn.shape)
        elif request.box is not None:
            x, y, width, height = request.box
            drawn[y : y + height, x : x + width] = True
        elif request.canvas is None:  # all of the picture, between two times or under another prompt
            drawn[:] = True
        return repeat(drawn, len(self.survey.moments_s))

    def _moving(self, path: str) -> Iterator[Drawn]:
        count = 0
        with open_film(path) as film:
            to_rgb = film.rgb_reader()
            for count, (_, stored) in enumerate(film, start=1):  # noqa: B007
                drawn = to_rgb(stored).mean(axis=2) >= HALF
                self._check_size(drawn.shape)
                yield drawn
        if count != len(self.survey.moments_s):
            raise ValueError(
                f"mask={path} has {count} pictures, must have {len(self.survey.moments_s)}, as {self.request.video} "
                "has: one for each. Or give one picture."
            )

    def _mouths(self) -> Iterator[Drawn]:
        people = people_of(self.survey)
        if not people:
            raise ValueError(
                f"{self.request.video} shows no face, must show one of 48 px or more for mask=mouth. Or draw a mask."
            )
        tracks: list[Track] = people[0].tracks
        for number in range(len(self.survey.moments_s)):
            drawn = np.zeros(self._film_size, bool)
            for track in tracks:
                if (place := track.place(number)) is not None:
                    drawn |= mouth_mask(track.points(place), self._film_size)
            yield drawn

    def _check_size(self, size: tuple[int, ...]) -> None:
        if tuple(size) != self._film_size:
            raise ValueError(
                f"mask={self.request.mask} has {size[1]} x {size[0]} px, must have the film's {self.survey.width} x "
                f"{self.survey.height}. Draw it on a picture of the film."
            )
