"""What a command says when it stops: one sentence for an error that its user can correct, a traceback for a bug."""

import dis
import errno
import hashlib
import os
import re
import sys
import time
import traceback
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from hydra.errors import HydraException, InstantiationException, OverrideParseException
from omegaconf.errors import OmegaConfBaseException

ROOT = Path(__file__).resolve().parents[2]
TRACEBACK = "GWM_TRACEBACK"
INTERRUPTED = 130  # 128 + SIGINT, as shells count it
RUN_FILE = "TORCHELASTIC_ERROR_FILE"  # <folder of a run on this machine>/<local rank>/error.json
FIRST_RANK_S = 10.0  # how long other processes of Lightning wait for the first to report an error that all of them met
REMOTE_LINE = re.compile(r'File "(.+?)", line \d+, in .*\n +(.*)')
MEMORY = re.compile("(?i)out of memory|can't allocate memory")

Explain = Callable[[Exception], str | None]


@contextmanager
def refusals(explain: Explain = lambda error: None, reported: Sequence[Exception] = ()) -> Iterator[None]:
    """Around a whole command: an error that its user can correct is reported in one sentence, and the exit status is 1.

    `GWM_TRACEBACK=1` shows the traceback. Of several processes that torchrun or Lightning started, one reports
    an error that all of them met, and every one ends with a status that is not 0.

    explain: a sentence for errors of which a command knows more than `sentence`, or None.
    reported: errors that the command has reported already; the list is read when it ends.
    """
    try:
        yield
    except KeyboardInterrupt:
        _interrupted()
    except SystemExit as stop:
        if isinstance(stop.__context__, KeyboardInterrupt):  # Lightning's own way to end
            _interrupted()
        raise
    except Exception as error:
        if root_cause(error) not in reported:
            report(error, explain)
        sys.exit(1)


def report(error: Exception, explain: Explain = lambda error: None) -> None:
    """Write an error to stderr: a sentence, or the traceback of a bug."""
    cause = root_cause(error)
    said = explain(cause) or sentence(cause)
    rank = int(os.environ.get("RANK", os.environ.get("LOCAL_RANK", "0")))
    if _reported_elsewhere(said or repr(cause), rank):
        return
    if said is None or os.environ.get(TRACEBACK, "") not in ("", "0"):
        said = "".join(traceback.format_exception(error)).rstrip()
    sys.stderr.write(f"process {rank}: {said}\n" if rank else f"{said}\n")
    sys.stderr.flush()


def _reported_elsewhere(said: str, rank: int) -> bool:
    """Whether another process of the same run on this machine has reported the same.

    torchrun gives its processes a folder, in which the first that meets an error leaves a mark. Lightning starts the
    others from the first: where the first ends within FIRST_RANK_S, it has reported the error.
    """
    if RUN_FILE in os.environ:
        mark = Path(os.environ[RUN_FILE]).parents[1] / f"reported-{hashlib.sha256(said.encode()).hexdigest()[:16]}"
        try:
            mark.touch(exist_ok=False)
        except FileExistsError:
            return True
        return False
    first = os.getppid()
    if rank:
        time.sleep(FIRST_RANK_S)
    return rank > 0 and os.getppid() != first


def root_cause(error: BaseException) -> Exception:
    """The original error, without what Hydra and task groups wrap around it."""
    while True:
        if isinstance(error, InstantiationException) and isinstance(error.__cause__, Exception):
            error = error.__cause__
        elif isinstance(error, BaseExceptionGroup) and len(error.exceptions) == 1:
            error = error.exceptions[0]
        else:
            assert isinstance(error, Exception)
            return error


def sentence(error: Exception) -> str | None:
    """The sentence for an error that the user can correct; None for a bug, which needs its traceback.

    The user can correct what our own code refuses with `raise`, what the operating system refuses (a missing
    file, a full disk), memory that does not suffice, and what Hydra cannot read. An assertion is a bug.
    """
    if isinstance(error, OverrideParseException):
        return f"{error.override} cannot be read: put the value in quotes, as in 'key=\"a value, as it is\"'."
    if isinstance(error, OmegaConfBaseException | HydraException):
        return _one_line(str(error).partition("\n    full_key")[0])
    if type(error).__name__ == "MisconfigurationException":  # Lightning's word for settings it cannot use
        return _one_line(str(error))
    if isinstance(error, OSError) and error.errno is not None:
        what = error.strerror or os.strerror(error.errno)
        remedy = ". Free space and run again" if error.errno == errno.ENOSPC and "ree space" not in what else ""
        return f"{f'{os.fsdecode(error.filename)}: ' if error.filename else ''}{what}{remedy}."
    if not isinstance(error, AssertionError | NotImplementedError):
        if _raised_here(error):
            return _one_line(str(error))
        if remote := _raised_elsewhere(error):
            return remote
    if isinstance(error, MemoryError) or MEMORY.search(str(error)):
        first = _one_line(str(error)).partition(". ")[0]
        return f"Memory does not suffice ({first}). Take a smaller batch, frame or clip, or another device."
    return None


def _raised_here(error: Exception) -> bool:
    """Whether a `raise` in this repository made the error, not Python or a library on something unforeseen."""
    step = error.__traceback__
    while step is not None and step.tb_next is not None:
        step = step.tb_next
    if step is None or not _is_ours(step.tb_frame.f_code.co_filename):
        return False
    return dis.opname[step.tb_frame.f_code.co_code[step.tb_lasti]] == "RAISE_VARARGS"


def _raised_elsewhere(error: Exception) -> str | None:
    """The message of an error that our own `raise` made in another process: its traceback arrives as text."""
    lines = REMOTE_LINE.findall(f"{error.__cause__}\n{error}")
    if not lines or not _is_ours(lines[-1][0]) or not lines[-1][1].startswith("raise "):
        return None
    # A DataLoader puts the whole traceback into the message.
    return _one_line(re.split(rf"(?m)^[\w.]*{type(error).__name__}: ", str(error))[-1])


def _is_ours(file: str) -> bool:
    path = Path(file)
    return path.is_relative_to(ROOT) and not {".venv", "site-packages"} & set(path.parts)


def _one_line(text: str) -> str:
    return " ".join(text.split())


def _interrupted() -> None:
    sys.stderr.write("interrupted\n")
    sys.exit(INTERRUPTED)
