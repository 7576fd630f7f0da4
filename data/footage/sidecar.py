"""Files beside a video with the same name: a caption (.txt), facts (.json), actions (.npz or .csv)."""

import csv
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float

from data.footage.video_file import UnusableError
from gwm.condition.spec import Kind
from gwm.files.texts import read_json, read_text

SIDECAR_SUFFIXES = (".txt", ".json", ".npz", ".csv")
TIME = "time_s"  # column of a .csv


@dataclass(frozen=True, slots=True)
class Actions:
    """Actions at `times_s`, in order; each holds until the next. Times start at the first picture."""

    times_s: Float[np.ndarray, " n"]
    values: Float[np.ndarray, "n k"]
    names: tuple[str, ...] = ()  # of the numbers; (): nobody says

    def at(self, times_s: Float[np.ndarray, " f"]) -> Float[np.ndarray, "f k"]:
        """Before the first one there is none: zeros."""
        index = np.searchsorted(self.times_s, times_s, side="right") - 1
        return np.where(index[:, None] < 0, 0, self.values[index.clip(0)]).astype(np.float32)

    def named(self, kinds: Mapping[str, Kind]) -> "Actions":
        """The same with the numbers in the order of `kinds`, each in its limits.

        Raises:
            UnusableError: one is missing, or beyond its limits.
        """
        if missing := [name for name in kinds if name not in self.names]:
            raise UnusableError("bad_sidecar", f"its actions must have the columns {', '.join(missing)}")
        values = self.values[:, [self.names.index(name) for name in kinds]]
        for name, kind, column in zip(kinds, kinds.values(), values.T, strict=True):
            keys = kind == "discrete"
            wrong = ~np.isin(column, (0, 1)) if keys else np.abs(column) > 1
            if wrong.any():
                rule = "0 or 1" if keys else "in [-1, 1]"
                raise UnusableError("bad_sidecar", f"{name}={column[wrong][0]:g} must be {rule}: it is {kind}")
        return Actions(self.times_s, values, tuple(kinds))


@dataclass(frozen=True, slots=True)
class SideCar:
    """All that is known about a video besides itself."""

    caption: str | None = None  # of the whole video
    captions: list[tuple[float, float, str]] = field(default_factory=list)  # start, end in seconds, text
    person: str | None = None  # who is seen; one person's videos stay in one split
    actions: Actions | None = None
    facts: dict[str, Any] = field(default_factory=dict)  # every other key of the .json

    def caption_of(self, start_s: float, end_s: float) -> str | None:
        """The caption that covers most of a part of the video; that of the whole where none touches it."""
        covered = [(min(end, end_s) - max(start, start_s), text) for start, end, text in self.captions]
        most, text = max(covered, default=(0.0, ""))
        return text if most > 0 else self.caption


def sidecar_paths(video: Path) -> list[Path]:
    """Those that are there."""
    return [path for suffix in SIDECAR_SUFFIXES if (path := video.with_suffix(suffix)).is_file()]


def read_sidecar(video: Path) -> SideCar:
    """Everything beside a video.

    Raises:
        UnusableError: a file that is there cannot be understood. A video without its caption would be silently worse.
    """
    found: dict[str, Any] = {}
    for path in sidecar_paths(video):
        try:
            if path.suffix == ".txt":
                found["caption"] = read_text(path).strip() or None
            elif path.suffix == ".json":
                found |= _facts(read_json(path))
            else:
                found["actions"] = _actions(path) if path.suffix == ".npz" else _table(path)
        except (ValueError, KeyError, TypeError, OSError, EOFError, zipfile.BadZipFile) as error:
            raise UnusableError("bad_sidecar", f"{path.name} {_in_words(error, path)}") from error
    return SideCar(**found)


def _in_words(error: Exception, path: Path) -> str:
    if isinstance(error, KeyError):
        return f"must have the arrays actions and times, or actions and fps ({error.args[0]})"
    if path.suffix == ".npz" and isinstance(error, (OSError, EOFError, zipfile.BadZipFile)):
        return "must be an .npz file as numpy.savez writes it, and cannot be read: it may be cut off. Write it again"
    return str(error).removeprefix(f"{path} ")


def _facts(values: Any) -> dict[str, Any]:
    """Keys `caption`, `captions` ([start_s, end_s, text] each) and `identity`; others are kept as they are."""
    if not isinstance(values, dict):
        raise TypeError(f"must hold one JSON object, holds {type(values).__name__}")
    known: dict[str, Any] = {}
    rest = dict(values)
    if (caption := rest.pop("caption", None)) is not None:
        known["caption"] = str(caption)
    if (person := rest.pop("identity", None)) is not None:
        known["person"] = str(person)
    try:
        known["captions"] = [(float(start), float(end), str(text)) for start, end, text in rest.pop("captions", [])]
    except (TypeError, ValueError) as error:
        raise ValueError("must have captions as a list of [start_s, end_s, text]: " + str(error)) from error
    return known | {"facts": rest}


def _actions(path: Path) -> Actions:
    """Array `actions` (n, k) with `times` (n, seconds) or `fps`."""
    with np.load(path, allow_pickle=False) as arrays:
        values = np.asarray(arrays["actions"], np.float32)
        if values.ndim != 2 or not len(values):
            raise ValueError(f"actions has shape {values.shape}, must be (moments, numbers)")
        if "times" in arrays.files:
            times = np.asarray(arrays["times"], np.float64)
        else:
            times = np.arange(len(values)) / float(arrays["fps"])
    return _checked(times, values)


def _table(path: Path) -> Actions:
    """A row for each moment from which other actions are taken: its time in seconds, and a number for each name."""
    head, *rows = [row for row in csv.reader(read_text(path).splitlines()) if row] or [[]]
    names = [name.strip() for name in head]
    if len(names) < 2 or names[0] != TIME or len(set(names)) < len(names):
        raise ValueError(f"must begin with a row of names, of which the first is {TIME}, and not {','.join(names)!r}")
    if not rows:
        raise ValueError(f"must have a row for each moment below the names {', '.join(names)}")
    for number, row in enumerate(rows, 2):
        if len(row) != len(names):
            raise ValueError(f"must have {len(names)} numbers in each row, has {len(row)} in row {number}")
    try:
        table = np.array(rows, np.float64)
    except ValueError as error:
        raise ValueError(f"must hold numbers below its names: {error}") from error
    return _checked(table[:, 0], table[:, 1:].astype(np.float32), tuple(names[1:]))


def _checked(times: Float[np.ndarray, " n"], values: Float[np.ndarray, "m k"], names: tuple[str, ...] = ()) -> Actions:
    rising = np.isfinite(times).all() and (np.diff(times) > 0).all()
    if times.shape != values.shape[:1] or not np.isfinite(values).all() or not rising:
        raise ValueError(f"times {times.shape} must rise and be one for each of {len(values)} finite actions")
    return Actions(times, values, names)
