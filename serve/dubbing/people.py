"""Whose faces the tracks of a film are, and which of them are dubbed."""

import logging
from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Float

from serve.dubbing.tracks import Survey, Track

log = logging.getLogger(__name__)

SAME = 0.58  # similarity from which two faces are one person's; of renders, 95 % of strangers are below 0.6
CLOSED = 0.015  # gap of the lips, in squares, up to which a mouth is taken for closed


@dataclass(frozen=True, slots=True)
class Person:
    """Tracks of one person, in order of time."""

    tracks: list[Track]

    @property
    def visible(self) -> float:
        """How much of the film shows this face: its size, summed over pictures."""
        return float(sum(sum(track.sizes) for track in self.tracks))

    @property
    def embedding(self) -> Float[np.ndarray, "128"] | None:
        found = [embedding for track in self.tracks for embedding in track.embeddings]
        return np.mean(found, axis=0) if found else None

    def shown_with(self, track: Track) -> bool:
        """Whether one picture shows both."""
        mine = set().union(*(one.pictures for one in self.tracks))
        return not mine.isdisjoint(track.pictures)

    def calm_track(self, track: Track) -> Track:
        """The track whose calm picture another one borrows where its own mouth never closes: the nearest in time."""
        if track.gap <= CLOSED:
            return track
        closed = [one for one in self.tracks if one.gap <= CLOSED]
        return min(closed, key=lambda one: abs(one.pictures[0] - track.pictures[0]), default=track)


def people_of(survey: Survey) -> list[Person]:
    """Everybody, the most visible first. Faces of two shots, or before and after an absence, are one person's where
    they are alike and no picture shows both."""
    people = list[Person]()
    for track in sorted(survey.tracks, key=len, reverse=True):
        own = Person([track])
        alike = [(likeness(person, own), person) for person in people if not person.shown_with(track)]
        best = max(alike, key=lambda pair: pair[0], default=(0.0, own))
        if best[0] >= SAME:
            best[1].tracks.append(track)
        else:
            people.append(own)
    for person in people:
        person.tracks.sort(key=lambda track: track.pictures[0])
    return sorted(people, key=lambda person: -person.visible)


def likeness(one: Person, other: Person) -> float:
    """1 - distance of their faces; 0 where one is never seen well."""
    a, b = one.embedding, other.embedding
    return 0.0 if a is None or b is None else 1 - float(np.linalg.norm(a - b))


@dataclass(frozen=True, slots=True)
class Choice:
    """Which faces are dubbed: `face`, one by its number or by a point on it; or several, `faces`."""

    face: Any = None  # a number, [x, y] or [x, y, seconds]
    faces: Any = None  # "all", or numbers

    def __post_init__(self) -> None:
        if self.face is not None and self.faces is not None:
            raise ValueError(f"face={self.face} and faces={self.faces} exclude each other: give one of both.")
        one, several = self.face, self.faces
        if one is not None and not _is_whole(one) and not (_are_numbers(one) and len(one) in (2, 3)):
            raise ValueError(
                f"face={one} must be a number from 0, or a point on the face as [x, y] in px, or [x, y, seconds]."
            )
        named = isinstance(several, list | tuple) and several and all(map(_is_whole, several))
        if several not in (None, "all") and not named:
            raise ValueError(f"faces={several} must be all, or a list of numbers from 0, such as faces=[0,2].")

    def of(self, people: list[Person], survey: Survey, name: str) -> list[int]:
        """Numbers of those who are chosen; without a choice, the most visible one.

        Raises:
            ValueError: there is no such face.
        """
        if not people:
            raise ValueError(
                f"{name} shows no face whose lips could be moved, must show one from the front, 48 px or larger. Use "
                "another video, or one of more pixels."
            )
        if self.faces == "all":
            return list(range(len(people)))
        numbers = self.faces
        if self.face is None or _is_whole(self.face):
            numbers = [self.face or 0] if numbers is None else numbers
            if missing := [number for number in numbers if number >= len(people)]:
                if len(people) == 1:
                    raise ValueError(
                        f"face {missing[0]} must be 0: {name} shows one face. Leave it out, or give face=0."
                    )
                raise ValueError(
                    f"face {missing[0]} must be one of 0 to {len(people) - 1}: {name} shows {len(people)} faces, the "
                    "most visible first. The log says where each is."
                )
            return sorted(set(numbers))
        return [self._at_point(people, survey, name)]

    def _at_point(self, people: list[Person], survey: Survey, name: str) -> int:
        x, y, *rest = self.face
        picture = int(np.searchsorted(survey.moments_s, rest[0] + 1e-6) - 1) if rest else None
        best = (np.inf, 0)
        for number, person in enumerate(people):
            for track in person.tracks:
                place = 0 if picture is None else track.place(picture)
                if place is not None:
                    points = track.points(place)[:, :2]
                    away = float(np.linalg.norm(points.mean(axis=0) - [x, y])) / max(1.0, float(np.ptp(points[:, 1])))
                    best = min(best, (away, number))
        if best[0] > 0.7:
            raise ValueError(
                f"face={list(self.face)} must be a point on a face: none is near ({x:g}, {y:g})"
                f"{f' at {rest[0]:g} s' if rest else ''} in {name}. The log says where faces are."
            )
        return best[1]


def report(people: list[Person], chosen: list[int], survey: Survey) -> None:
    """Log who was found, and who is dubbed."""
    for number, person in enumerate(people):
        first, shown = person.tracks[0], sum(map(len, person.tracks))
        log.info(
            "face %d: in %d of %d pictures, from %.2f s, first at (%.0f, %.0f), %.0f px; %s",
            *(number, shown, len(survey.moments_s), survey.moments_s[first.pictures[0]], *first.middle),
            *(float(np.median(first.sizes)), "dubbed" if number in chosen else "left as it is"),
        )


def _is_whole(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= 0


def _are_numbers(value: object) -> bool:
    return isinstance(value, list | tuple) and all(isinstance(x, int | float) and x >= 0 for x in value)
