"""Files that are written whole or not at all, and refused before the work that fills them."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryFile


@contextmanager
def whole_file(path: Path) -> Iterator[Path]:
    """A path beside `path`, with the same suffix, that takes its place at the end; after an error nothing is left."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f"{path.name}.partial{path.suffix}")
    try:
        yield partial
        os.replace(partial, path)
    finally:
        partial.unlink(missing_ok=True)


def check_output(path: Path) -> None:
    """Fail now, not after the work: the folder of a file that will be written is made, and tried.

    Raises:
        ValueError: there is a folder of this name, or none can be written to; the message says why.
    """
    if path.is_dir():
        raise ValueError(f"out={path} is a folder, must be the name of a file: add one, such as {path / 'talk.mp4'}.")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with TemporaryFile(dir=path.parent):
            pass
    except OSError as error:
        raise ValueError(
            f"out={path} cannot be written ({error.strerror}): choose a folder that is yours, with space left."
        ) from error
