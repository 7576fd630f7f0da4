"""The contract between the writer and the readers of shards: one manifest.json beside the tar files."""

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from data.storage import Location, beside, locate, open_bytes, sizes_bytes
from gwm.files.folder_kind import folder_kind
from gwm.files.outputs import whole_file
from gwm.files.texts import decode_json, decode_text
from gwm.resolution import Resolution

FORMAT = "gwm-shards"
VERSION = 1
MANIFEST_NAME = "manifest.json"
PROGRESS_NAME = "manifest.partial.json"  # same form; lists the shards finished so far


@dataclass(frozen=True, kw_only=True, slots=True)
class Shard:
    """One tar file of a split."""

    name: str
    bytes: int
    num_samples: int


@dataclass(frozen=True, kw_only=True, slots=True)
class SplitManifest:
    """What one split holds. No identity and no sentence is in two splits."""

    shards: list[Shard]
    identities: list[str]
    sentences: list[str]

    @property
    def num_samples(self) -> int:
        return sum(shard.num_samples for shard in self.shards)


@dataclass(frozen=True, kw_only=True, slots=True)
class Manifest:
    """Everything a reader must know before it opens a shard."""

    kind: str  # "pixels", or the name of what the samples were encoded to
    fps: int
    sample_rate: int
    resolution: Resolution
    num_frames: int
    splits: dict[str, SplitManifest]
    seed: int
    command: str  # makes these shards again
    generator: dict[str, Any]  # every setting that decides the bytes

    def shard_paths(self, folder: Location, split: str) -> list[Location]:
        """Tar files of one split, as paths or URLs.

        Raises:
            ValueError: the shards have no such split.
        """
        if split not in self.splits:
            raise ValueError(f"split={split!r} must be one of {sorted(self.splits)}, the splits of {folder}.")
        return [beside(folder, shard.name) for shard in self.splits[split].shards]


def write_manifest(folder: Path, manifest: Manifest, *, name: str = MANIFEST_NAME) -> None:
    """Put the manifest in place in one step: a reader sees the old file or the new one, never a half."""
    text = json.dumps({"format": FORMAT, "version": VERSION, **asdict(manifest)}, indent=1)
    with whole_file(folder / name) as partial:
        partial.write_text(text + "\n", encoding="ascii")


def parse_manifest(path: Location) -> Manifest:
    """Read a manifest without looking at the shards.

    Raises:
        ValueError: the file is no JSON, or of another format or version.
    """
    with open_bytes(path) as file:
        fields = decode_json(decode_text(file.read(), str(path)), str(path))
    if not isinstance(fields, dict):
        raise ValueError(f"{path} must hold a JSON object, holds {type(fields).__name__}. Make the shards again.")
    found = fields.pop("format", None), fields.pop("version", None)
    if found[0] != FORMAT and isinstance(path, Path):
        raise ValueError(f"shards={path.parent} must be a folder of shards, but {folder_kind(path.parent)}.")
    if found != (FORMAT, VERSION):
        raise ValueError(
            f"{path} has (format, version)={found}, must be {(FORMAT, VERSION)}: it was written by another release. "
            "Delete its folder and make the shards again."
        )
    try:
        fields["splits"] = {
            split: SplitManifest(**{**entry, "shards": [Shard(**shard) for shard in entry["shards"]]})
            for split, entry in fields["splits"].items()
        }
        return Manifest(**{**fields, "resolution": Resolution.parse(fields["resolution"])})
    except (KeyError, TypeError, AttributeError) as error:
        raise ValueError(
            f"{path} must have the entries of a {FORMAT} manifest of version {VERSION} ({error}): it was changed by "
            "hand or written by another release. Make the shards again."
        ) from error


def read_manifest(folder: Location) -> Manifest:
    """Read a manifest from disk or from a URL and check that every shard is there, whole.

    Raises:
        FileNotFoundError: no manifest, or a shard is missing.
        ValueError: another format or version, or a shard of another size than when it was finished.
    """
    folder = locate(folder)
    try:
        manifest = parse_manifest(beside(folder, MANIFEST_NAME))
    except (FileNotFoundError, NotADirectoryError) as error:
        raise FileNotFoundError(
            f"{beside(folder, MANIFEST_NAME)} must exist: {_no_shards(folder)}. Run: "
            f"python -m data.characters out={folder} (or, for videos: python -m data.ingest videos=... out={folder})"
        ) from error
    shards = [shard for split in manifest.splits.values() for shard in split.shards]
    check_shards(folder, shards, manifest.command)
    return manifest


def _no_shards(folder: Location) -> str:
    """The reason why a folder holds no shards."""
    return f"{folder} holds no shards" + (f", {folder_kind(folder)}" if isinstance(folder, Path) else "")


def check_shards(folder: Location, shards: list[Shard], command: str) -> None:
    """Compare sizes with the manifest's, which finds what an interrupted copy leaves behind.

    Raises:
        FileNotFoundError, ValueError: see `read_manifest`.
    """
    try:
        sizes = sizes_bytes(folder, [shard.name for shard in shards])
    except FileNotFoundError as error:
        raise FileNotFoundError(
            f"{error.filename or error} must exist: the manifest lists it. Make it again with: {command}"
        ) from error
    for shard in shards:
        size = sizes[shard.name]
        if size is not None and size != shard.bytes:
            raise ValueError(
                f"{beside(folder, shard.name)} has {size} bytes, must have {shard.bytes} as in {MANIFEST_NAME}: it is "
                f"truncated or was changed. Make it again with: {command}"
            )


def is_whole(folder: Path, shard: Shard) -> bool:
    """Whether a shard is on disk at its full size."""
    path = folder / shard.name
    return path.is_file() and path.stat().st_size == shard.bytes
