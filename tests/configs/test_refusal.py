"""One sentence and status 1 for what a user can mend, a traceback for a bug."""

import errno
import math
import os
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from torch.utils.data import DataLoader, Dataset

from configs.command import refusal
from configs.command.refusal import refusals, sentence
from serve.samples import sample_path


def outcome(run: Callable[[], object], capsys: pytest.CaptureFixture[str]) -> tuple[object, str]:
    """Exit status and stderr of a command that does this."""
    with pytest.raises(SystemExit) as stop, refusals():
        run()
    return stop.value.code, capsys.readouterr().err


def refused() -> None:
    sample_path("portrat")


REFUSAL = "sample 'portrat' must be one of ['portrait', 'speech'].\n"


def test_a_refusal_of_ours_is_one_sentence(capsys: pytest.CaptureFixture[str]):
    assert outcome(refused, capsys) == (1, REFUSAL)


def test_a_variable_shows_where_a_refusal_was_made(capsys, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("GWM_TRACEBACK", "1")
    status, message = outcome(refused, capsys)
    assert status == 1 and message.startswith("Traceback") and message.endswith(f"ValueError: {REFUSAL}")


@pytest.mark.parametrize(
    "bug", [lambda: math.sqrt(-1), lambda: [].index(3), lambda: np.zeros(2) + np.zeros(3), lambda: {}[1]]
)
def test_a_bug_keeps_its_traceback(bug: Callable[[], object], capsys: pytest.CaptureFixture[str]):
    """Also a ValueError, of Python or a library, of a call in our own code."""
    status, message = outcome(bug, capsys)
    assert status == 1 and message.startswith("Traceback")


def test_an_assertion_is_a_bug(capsys: pytest.CaptureFixture[str]):
    def wrong() -> None:
        raise AssertionError("slot is taken")

    assert outcome(wrong, capsys)[1].startswith("Traceback")


def test_a_refusal_in_another_process_is_the_same_sentence(capsys: pytest.CaptureFixture[str]):
    with ProcessPoolExecutor(1) as pool:
        assert outcome(pool.submit(refused).result, capsys) == (1, REFUSAL)
        assert outcome(pool.submit(math.sqrt, -1).result, capsys)[1].startswith("concurrent")


class Refusing(Dataset):
    def __len__(self) -> int:
        return 1

    def __getitem__(self, index: int) -> None:
        refused()


def test_a_refusal_of_a_reading_process_is_the_same_sentence(capsys: pytest.CaptureFixture[str]):
    assert outcome(lambda: list(DataLoader(Refusing(), num_workers=1)), capsys) == (1, REFUSAL)


def test_the_system_s_errors_name_the_file(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    missing = tmp_path / "é.json"
    assert outcome(missing.read_text, capsys) == (1, f"{missing}: No such file or directory.\n")


def test_a_full_disk_says_what_to_do():
    assert sentence(OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), "x.mp4")) == (
        "x.mp4: No space left on device. Free space and run again."
    )


def test_ctrl_c_is_one_line_and_the_status_of_shells(capsys: pytest.CaptureFixture[str]):
    def stopped() -> None:
        raise KeyboardInterrupt

    def as_lightning_does() -> None:
        try:
            raise KeyboardInterrupt
        except KeyboardInterrupt:
            raise SystemExit(1)  # noqa: B904

    assert outcome(stopped, capsys) == outcome(as_lightning_does, capsys) == (130, "interrupted\n")


@pytest.mark.parametrize("rank", ["0", "2"])
def test_processes_of_torchrun_tell_an_error_once(rank: str, tmp_path: Path, capsys, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("RANK", rank)
    for number in "01":
        monkeypatch.setenv("TORCHELASTIC_ERROR_FILE", str(tmp_path / number / "error.json"))
        status, message = outcome(refused, capsys)
        first = REFUSAL if rank == "0" else f"process 2: {REFUSAL}"
        assert (status, message) == (1, first if number == "0" else "")
    assert outcome(lambda: math.sqrt(-1), capsys)[1].startswith(("Traceback", "process 2: Traceback")), "another error"


@pytest.mark.parametrize("first_ended", [True, False])
def test_a_process_of_lightning_leaves_it_to_the_first(first_ended: bool, capsys, monkeypatch: pytest.MonkeyPatch):
    """Its parent is the first; once that has ended, and reported, it has another."""
    parents = iter([100, 1 if first_ended else 100])
    monkeypatch.setattr(refusal.os, "getppid", lambda: next(parents))
    monkeypatch.setattr(refusal.time, "sleep", lambda seconds: None)
    monkeypatch.delenv("TORCHELASTIC_ERROR_FILE", raising=False)
    monkeypatch.setenv("LOCAL_RANK", "1")
    assert outcome(refused, capsys) == (1, "" if first_ended else f"process 1: {REFUSAL}")


def test_what_was_told_is_not_told_again(capsys: pytest.CaptureFixture[str]):
    error = ValueError("once")
    with pytest.raises(SystemExit), refusals(reported=[error]):
        raise error
    assert capsys.readouterr().err == ""


def test_no_memory_is_told_with_what_helps():
    message = sentence(RuntimeError("CUDA out of memory. Tried to allocate 2.00 GiB. GPU 0 has ..."))
    assert message == (
        "Memory does not suffice (CUDA out of memory). Take a smaller batch, frame or clip, or another device."
    )
