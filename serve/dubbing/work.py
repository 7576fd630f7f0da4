"""What a dub has finished, in a folder beside its film: a run that was killed goes on where it stood."""

import fcntl
import hashlib
import json
import logging
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from gwm.files.outputs import PARTIAL
from gwm.weights import write_json

log = logging.getLogger(__name__)

FACTS, LOCK = "facts.json", "lock"


@contextmanager
def work_folder(out: Path, facts: Mapping[str, object], *, resume: bool) -> Iterator[Path]:
    """A folder with what was finished under the same facts, and with nothing under others or without `resume`. It is
    gone at the end, and after a ValueError, which another try would raise again; after anything else it stays.

    Raises:
        ValueError: another run writes the same film now.
    """
    folder = out.parent / f"{PARTIAL}{out.name}"
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / LOCK).open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise ValueError(f"out={out} is being written by another run. Wait, or name another file.") from error
        _begin(folder, json.loads(json.dumps(facts)), resume=resume)
        try:
            yield folder
        except ValueError:
            shutil.rmtree(folder)
            raise
        except BaseException:
            log.warning("what is finished lies in %s: the same command goes on from there", folder)
            raise
        shutil.rmtree(folder)


def _begin(folder: Path, facts: dict[str, object], *, resume: bool) -> None:
    path = folder / FACTS
    if resume and path.is_file() and json.loads(path.read_text()) == facts:
        log.info("%s: goes on with what an earlier run has finished", folder)
        return
    for old in folder.iterdir():
        if old.is_dir():
            shutil.rmtree(old)
        elif old.name != LOCK:
            old.unlink()
    write_json(path, facts)


def digest(path: str | Path) -> str:
    """SHA-256 of a file."""
    with Path(path).open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
