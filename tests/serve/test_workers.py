"""Work that is shared with other processes is done wholly or not at all."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from configs.command.refusal import sentence
from serve.workers import beside


def write(rank: int, folder: str) -> None:
    (Path(folder) / f".{rank}").write_text(f"{os.getpid()}")
    (Path(folder) / f".{rank}").rename(Path(folder) / f"{rank}")


def until(holds: Callable[[], bool]) -> None:
    end_s = time.monotonic() + 120
    while not holds():
        assert time.monotonic() < end_s
        time.sleep(0.05)


def runs(process: int) -> bool:
    stat = Path("/proc") / f"{process}" / "stat"
    return stat.exists() and stat.read_text().rpartition(")")[2].split()[0] != "Z"


def meet(rank: int, folder: str) -> None:
    write(rank, folder)
    until(lambda: len(list(Path(folder).glob("[0-9]"))) == 3)


def refuse(rank: int) -> None:
    raise ValueError(f"x={rank} must be 0.")


def break_down(rank: int) -> None:
    dict[str, int]()["x"]


def die(rank: int) -> None:
    os._exit(9)


def wait(rank: int, folder: str) -> None:
    write(rank, folder)
    time.sleep(60)
    (Path(folder) / "done").touch()


def test_every_rank_but_the_first_has_a_process_at_the_same_time(tmp_path: Path):
    with beside(meet, str(tmp_path), workers=3):
        meet(0, str(tmp_path))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["0", "1", "2"]
    assert len({path.read_text() for path in tmp_path.iterdir()}) == 3


@pytest.mark.parametrize(
    ("work", "kind", "message"),
    [
        (refuse, ValueError, "^x=1 must be 0"),
        (break_down, KeyError, "'x'"),
        (die, RuntimeError, "a worker was killed.*Lower workers"),
    ],
)
def test_a_worker_that_fails_is_an_error(work: Callable[[int], None], kind: type[Exception], message: str):
    """What it refuses is said in its sentence; a bug has the traceback of its process."""
    with pytest.raises(kind, match=message) as caught, beside(work, workers=2):
        pass
    said = sentence(caught.value)
    assert said == (None if work is break_down else str(caught.value))
    assert work is not break_down or 'dict[str, int]()["x"]' in str(caught.value.__cause__)


def test_no_worker_stays_after_an_error(tmp_path: Path):
    with pytest.raises(KeyError), beside(wait, str(tmp_path), workers=2):
        until((tmp_path / "1").exists)
        raise KeyError
    with pytest.raises(ProcessLookupError):
        os.kill(int((tmp_path / "1").read_text()), 0)
    assert not (tmp_path / "done").exists()


def test_a_process_whose_parent_had_ended_when_it_began_to_watch_ends():
    words = "import time; from serve.workers import end_with_parent; end_with_parent(0); time.sleep(600)"
    done = subprocess.run([sys.executable, "-c", words], cwd=Path(__file__).parents[2], timeout=120, check=False)
    assert done.returncode == 1


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
def test_no_worker_stays_behind_a_process_that_was_killed(tmp_path: Path, number: int):
    words = "import sys; from tests.serve.test_workers import beside, wait\n"
    words += "if __name__ == '__main__':\n    with beside(wait, sys.argv[1], workers=2): wait(0, sys.argv[1])"
    (tmp_path / "program.py").write_text(words)
    environment = os.environ | {"PYTHONPATH": str(Path(__file__).parents[2])}
    first = subprocess.Popen([sys.executable, str(tmp_path / "program.py"), str(tmp_path)], env=environment)
    try:
        until((tmp_path / "1").exists)
    finally:
        first.send_signal(number)
        first.wait()
    worker = int((tmp_path / "1").read_text())
    until(lambda: not runs(worker))
