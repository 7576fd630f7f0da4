"""The contract between the writer and the readers of shards: one manifest.json beside the tar files."""

import json
import os
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

FORMAT = "gwm-shards"
VERSION = 1
MANIFEST_NAME = "manifest.json"


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
    resolution: int
    num_frames: int
    splits: dict[str, SplitManifest]
    seed: int
    command: str  # makes these shards again
    generator: dict[str, Any]  # every setting that decides the bytes

    def shard_paths(self, folder: Path, split: str) -> list[Path]:
        """Tar files of one split.

        Raises:
            ValueError: the shards have no such split.
        """
        if split not in self.splits:
            raise ValueError(f"split={split!r} must be one of {sorted(self.splits)}, the splits of {folder}.")
        return [folder / shard.name for shard in self.splits[split].shards]


def write_manifest(folder: Path, manifest: Manifest, *, name: str = MANIFEST_NAME) -> None:
    """Put the manifest in place in one step: a reader sees the old file or the new one, never a half."""
    text = json.dumps({"format": FORMAT, "version": VERSION, **asdict(manifest)}, indent=1)
    temporary = folder / f"{name}.tmp"
    temporary.write_text(text + "\n", encoding="ascii")
    os.replace(temporary, folder / name)


def parse_manifest(path: Path) -> Manifest:
    """Read a manifest without looking at the shards.

    Raises:
        ValueError: the file is of another format or version.
    """
    fields = json.loads(path.read_text(encoding="ascii"))
    found = fields.pop("format", None), fields.pop("version", None)
    if found != (FORMAT, VERSION):
        raise ValueError(
            f"{path} has (format, version)={found}, must be {(FORMAT, VERSION)}: it was written by another release. "
            "Delete its folder and make the shards again."
        )
    fields["splits"] = {
        split: SplitManifest(**{**entry, "shards": [Shard(**shard) for shard in entry["shards"]]})
        for split, entry in fields["splits"].items()
    }
    return Manifest(**fields)


def read_manifest(folder: Path | str) -> Manifest:
    """Read a manifest and check that every shard is there, whole.

    Raises:
        FileNotFoundError: no manifest, or a shard is missing.
        ValueError: another format or version, or a shard of another size than when it was finished.
    """
    folder = Path(folder)
    path = folder / MANIFEST_NAME
    if not path.is_file():
        raise FileNotFoundError(
            f"{path} must exist: {folder} holds no shards. Run: python -m data.characters out={folder}"
        )
    manifest = parse_manifest(path)
    for split in manifest.splits.values():
        for shard in split.shards:
            check_shard(folder, shard, manifest.command)
    return manifest


def check_shard(folder: Path, shard: Shard, command: str) -> None:
    """Compare a shard's size with its manifest entry, which finds what an interrupted copy leaves behind.

    Raises:
        FileNotFoundError, ValueError: see `read_manifest`.
    """
    path = folder / shard.name
    if not path.is_file():
        raise FileNotFoundError(f"{path} must exist: the manifest lists it. Make it again with: {command}")
    if (size := path.stat().st_size) != shard.bytes:
        raise ValueError(
            f"{path} has {size} bytes, must have {shard.bytes} as in {MANIFEST_NAME}: it is truncated or was changed. "
            f"Make it again with: {command}"
        )


def is_whole(folder: Path, shard: Shard) -> bool:
    """Whether a shard is on disk at its full size."""
    path = folder / shard.name
    return path.is_file() and path.stat().st_size == shard.bytes
