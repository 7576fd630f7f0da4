"""Files on disk and behind URLs, read alike: http, https and, with their fsspec packages, s3 (s3fs), gs (gcsfs), hf.

`simplecache::s3://bucket/folder` keeps a copy of every file it has read on the local disk.
"""

from pathlib import Path
from typing import Any, TypeAlias

import fsspec

from gwm.optional import MissingPackageError

PACKAGES = {"http": "aiohttp", "https": "aiohttp", "s3": "s3fs", "s3a": "s3fs", "gs": "gcsfs", "gcs": "gcsfs"}
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
        MissingPackageError: a scheme needs a package that is not installed; the message has the command.
    """
    where = locate(where)
    if isinstance(where, Path):
        return where.open("rb")
    system, path = file_system(where)
    return system.open(path, "rb")


def file_system(url: str) -> tuple[Any, str]:
    """What reads a URL, and the URL's path in it.

    Raises:
        MissingPackageError: its package is not installed.
    """
    try:
        return fsspec.core.url_to_fs(url)
    except ImportError as error:
        scheme = url.partition("://")[0].rpartition("::")[2]
        package = PACKAGES.get(scheme, error.name or scheme)
        raise MissingPackageError(package, f"pip install {package}  # to read {url}") from error


def sizes_bytes(folder: Location, names: list[str]) -> dict[str, int | None]:
    """Size of each file, None where the server does not say; remote ones are asked for at once.

    Raises:
        FileNotFoundError: one of them is not there.
    """
    folder = locate(folder)
    if isinstance(folder, Path):
        return {name: (folder / name).stat().st_size for name in names}
    system, root = file_system(folder)
    paths = [f"{root.rstrip('/')}/{name}" for name in names]
    return dict(zip(names, system.sizes(paths), strict=True)) if names else {}
