"""The videos of a folder: found, identified by their content, and assigned to train, val or test."""

import hashlib
import os
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from data.footage.sidecar import SIDECAR_SUFFIXES, sidecar_paths
from gwm.files.texts import read_json

Split = Literal["train", "val", "test"]
VIDEO_SUFFIXES = frozenset(
    f".{name}" for name in "mp4 mov webm mkv avi m4v mpg mpeg ts mts m2ts wmv flv ogv 3gp gif".split()
)
PROBE_BYTES = 1 << 18  # of both ends of a file: there lie its index and its first and last pictures


@dataclass(frozen=True, slots=True)
class Source:
    """One video; `path` is relative to the folder of videos."""

    path: str
    digest: str  # of the video: equal ones are the same video
    key: str  # of the video and what lies beside it
    person: str  # who is seen, as its .json says; else the digest
    size_bytes: int


def find_files(folder: Path) -> tuple[list[Path], list[Path]]:
    """Videos, by their names, and files that are neither that nor a video's side-car; hidden ones are not looked at.

    Linked folders are looked through, each folder once, so that a link to a folder above is no loop.

    Raises:
        PermissionError: a folder may not be looked into.
        FileNotFoundError: there is no such folder.
    """
    if not folder.is_dir():
        raise FileNotFoundError(
            f"videos={folder} must be a folder, and there is none; relative paths start at {Path.cwd()}."
        )
    files = sorted(_files_below(folder, set()))
    videos = [path for path in files if path.suffix.lower() in VIDEO_SUFFIXES]
    beside = {path.with_suffix(suffix) for path in videos for suffix in SIDECAR_SUFFIXES}
    return videos, [path for path in files if path.suffix.lower() not in VIDEO_SUFFIXES and path not in beside]


def _files_below(folder: Path, looked: set[tuple[int, int]]) -> Iterator[Path]:
    """Everything that is no folder; `looked` holds device and number of the folders that were looked through."""
    about = folder.stat()
    if (about.st_dev, about.st_ino) in looked:
        return
    looked.add((about.st_dev, about.st_ino))
    try:
        names = sorted(os.listdir(folder))
    except PermissionError as error:
        raise PermissionError(
            f"{folder} must be a folder that this user may look into. Change its permissions: chmod u+rx, or move it."
        ) from error
    for path in (folder / name for name in names if not name.startswith(".")):
        if path.is_dir():
            yield from _files_below(path, looked)
        else:
            yield path


def read_source(path: Path, folder: Path) -> Source:
    """Tell a video by its size and both its ends: to read films whole would take longer than to cut them.

    Raises:
        OSError: the file, or what lies beside it, may not be read.
    """
    if not path.is_file():
        raise FileNotFoundError(f"{path} must be a file, is a link to nothing, a pipe or a device")
    size = path.stat().st_size
    digest = hashlib.sha256(str(size).encode())
    with path.open("rb") as file:
        digest.update(file.read(PROBE_BYTES))
        file.seek(max(0, size - PROBE_BYTES))
        digest.update(file.read(PROBE_BYTES))
    name = digest.hexdigest()[:16]
    for beside in sidecar_paths(path):
        digest.update(beside.read_bytes())
    return Source(str(path.relative_to(folder)), name, digest.hexdigest()[:16], _person(path) or name, size)


def _person(video: Path) -> str | None:
    """The identity that the video's .json names; a file that cannot be read is reported when the video is cut."""
    path = video.with_suffix(".json")
    try:
        facts = read_json(path) if path.is_file() else None
    except ValueError:
        return None
    person = facts.get("identity") if isinstance(facts, dict) else None
    return None if person is None else str(person)


def assign_splits(
    people: Iterable[str], known: dict[str, Split], *, val_share: float, test_share: float, seed: int
) -> dict[str, Split]:
    """A split for each person: whoever is known keeps theirs, so a folder may grow without a leak.

    Validation and test get at least one person each as soon as there are three.

    Raises:
        ValueError: the shares leave nothing to train on.
    """
    if min(val_share, test_share) < 0 or val_share + test_share >= 1:
        raise ValueError(f"val={val_share} and test={test_share} must be shares whose sum is below 1.")
    everyone = sorted(set(people) | set(known), key=lambda p: hashlib.sha256(f"{seed}/{p}".encode()).digest())
    splits = dict(known)
    few = len(everyone) < 3
    shares: tuple[tuple[Split, float], ...] = (("val", val_share), ("test", test_share))
    for split, share in shares:
        wanted = 0 if few or share == 0 else max(1, round(share * len(everyone)))
        missing = wanted - sum(s == split for s in splits.values())
        for person in [p for p in everyone if p not in splits][: max(0, missing)]:
            splits[person] = split
    return {person: splits.get(person, "train") for person in everyone}
