"""Files that are written whole or not at all, and refused before the work that fills them."""

import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory, TemporaryFile

from safetensors import SafetensorError
from safetensors.torch import save_file
from torch import Tensor

PARTIAL = ".partial-"


@contextmanager
def whole_file(path: Path) -> Iterator[Path]:
    """A path of the same name in a folder of its own that takes the place of `path` at the end; after an error nothing
    is left. Several processes may write one file; what a killed one leaves is a folder PARTIAL* beside it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with TemporaryDirectory(dir=path.parent, prefix=PARTIAL) as folder:
        partial = Path(folder) / path.name
        yield partial
        os.replace(partial, path)


def write_tensors(path: Path, tensors: Mapping[str, Tensor]) -> None:
    """Write safetensors, whole or not at all.

    Raises:
        OSError: they cannot be written, for instance because the disk is full.
    """
    with whole_file(path) as partial:
        try:
            save_file({name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}, partial)
        except SafetensorError as error:
            raise OSError(f"{path} is not written ({error}); an older one is kept. Free space, rerun.") from error
        partial.chmod(0o644)  # safetensors leaves a file that only its owner can read


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
