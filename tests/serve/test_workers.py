"""Work that is shared with other processes is done wholly or not at all."""

import os
import time
from pathlib import Path

import pytest

from serve.workers import beside


def write(rank: int, folder: str) -> None:
    (Path(folder) / f"{rank}").write_text(f"{os.getpid()}")


def refuse(rank: int) -> None:
    raise ValueError(f"x={rank} must be 0.")


def break_down(rank: int) -> None:
    raise KeyError("x")


def die(rank: int) -> None:
    os._exit(9)


def wait(rank: int, folder: str) -> None:
    write(rank, folder)
    time.sleep(600)


def test_every_rank_but_the_first_has_a_process(tmp_path: Path):
    with beside(write, str(tmp_path), workers=3):
        write(0, str(tmp_path))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["0", "1", "2"]
    assert len({path.read_text() for path in tmp_path.iterdir()}) == 3


@pytest.mark.parametrize(
    ("work", "kind", "message"),
    [
        (refuse, ValueError, "^x=1 must be 0"),
        (break_down, RuntimeError, "a worker failed: 'x'"),
        (die, RuntimeError, "a worker was killed.*Lower workers"),
    ],
)
def test_a_worker_that_fails_is_an_error(work: object, kind: type[Exception], message: str):
    with pytest.raises(kind, match=message), beside(work, workers=2):  # type: ignore[arg-type]
        pass


def test_no_worker_stays_after_an_error(tmp_path: Path):
    with pytest.raises(KeyError), beside(wait, str(tmp_path), workers=2):
        while not (tmp_path / "1").exists() or not (tmp_path / "1").read_text():
            time.sleep(0.01)
        raise KeyError
    with pytest.raises(ProcessLookupError):
        os.kill(int((tmp_path / "1").read_text()), 0)
