"""Files on disk and behind URLs, read alike: http, https and, with their fsspec packages, s3 (s3fs), gs (gcsfs), hf.

`simplecache::s3://bucket/folder` keeps a copy of every file it has read on the local disk.
"""

from pathlib import Path
from typing import Any, TypeAlias

import fsspec

Location: TypeAlias = Path | str  # a path, or a URL, in which "//" must survive


def locate(where: Location) -> Location:
    """A URL as it is, anything else as a path."""
    return where if isinstance(where, str) and "://" in where else Path(where)


def beside(folder: Location, name: str) -> Location:
    """A file of a folder."""
    folder = locate(folder)
    return folder / name if isinstance(folder, Path) else f"{folder.rstrip('/')}/{name}"


def open_bytes(where: Location) -> Any:  # fsspec's files are no IO[bytes] by name
    """The content, as a stream.

    Raises:
        FileNotFoundError: there is no such file.
        ImportError: a scheme needs a package that is not installed; the message names it.
    """
    where = locate(where)
    if isinstance(where, Path):
        return where.open("rb")
    system, path = fsspec.core.url_to_fs(where)
    return system.open(path, "rb")


def sizes_bytes(folder: Location, names: list[str]) -> dict[str, int | None]:
    """Size of each file, None where the server does not say; remote ones are asked for at once.

    Raises:
        FileNotFoundError: one of them is not there.
    """
    folder = locate(folder)
    if isinstance(folder, Path):
        return {name: (folder / name).stat().st_size for name in names}
    system, root = fsspec.core.url_to_fs(folder)
    paths = [f"{root.rstrip('/')}/{name}" for name in names]
    return dict(zip(names, system.sizes(paths), strict=True)) if names else {}
