"""Packages that only some commands need: asked for by name, and named with their pip command when missing."""

from importlib import import_module
from importlib.util import find_spec
from itertools import accumulate
from pathlib import Path
from typing import Any


class MissingPackageError(ImportError):
    """An optional package is not installed; `command` installs it."""

    def __init__(self, module: str, command: str) -> None:
        super().__init__(f"the Python module {module!r} is not installed. Install it with: {command}", name=module)
        self.command = command


def optional_module(module: str, command: str) -> Any:
    """Import an optional module.

    Raises:
        MissingPackageError: it is not installed.
    """
    for name in accumulate(module.split("."), "{}.{}".format):  # a namespace is there when any package of it is
        if find_spec(name) is None:
            raise MissingPackageError(module, command)
    return import_module(module)


def optional_folder(module: str, command: str) -> Path:
    """Folder of an optional package whose files are wanted; none of its code runs.

    Raises:
        MissingPackageError: it is not installed.
    """
    spec = find_spec(module)
    if spec is None or not spec.submodule_search_locations:
        raise MissingPackageError(module, command)
    return Path(spec.submodule_search_locations[0])


def optional_file(module: str, name: str, command: str) -> Path:
    """A file or folder that an optional package carries.

    Raises:
        MissingPackageError: the package is not installed.
        FileNotFoundError: this version of it does not carry the file.
    """
    path = optional_folder(module, command) / name
    if not path.exists():
        raise FileNotFoundError(f"{path} must be there, but this version of {module} lacks it. Get it with: {command}")
    return path
