"""Processes that share work with this one: each does a part of it, and all must succeed."""

import multiprocessing
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from multiprocessing.connection import Connection
from typing import Any

import torch


@contextmanager
def beside(work: Callable[..., None], *arguments: Any, workers: int) -> Iterator[None]:
    """Run work(rank, *arguments) for ranks 1 to `workers` - 1, each in a process of its own, while the body does what
    rank 0 has to do; wait for them at its end. None is left after an error.

    Raises:
        ValueError: one of them raised it.
        RuntimeError: one of them failed otherwise, or was killed.
    """
    context, before = multiprocessing.get_context("spawn"), torch.get_num_threads()
    threads, begun = max(1, before // workers), list[tuple[Any, Connection]]()
    try:
        for rank in range(1, workers):
            mine, its = context.Pipe(duplex=False)
            given = (its, threads, work, rank, *arguments)
            process = context.Process(target=_part, args=given, daemon=True)
            process.start()
            its.close()
            begun.append((process, mine))
        torch.set_num_threads(threads)
        yield
        for process, mine in begun:
            _check(mine)
            process.join()
    finally:
        torch.set_num_threads(before)
        for process, mine in begun:
            process.kill()
            process.join()
            mine.close()


def device_of(rank: int) -> torch.device:
    """GPUs in turn, where there are any."""
    count = torch.cuda.device_count()
    return torch.device("cuda", rank % count) if count else torch.device("cpu")


def _part(answer: Connection, threads: int, work: Callable[..., None], rank: int, *arguments: Any) -> None:
    torch.set_num_threads(threads)
    try:
        work(rank, *arguments)
    except Exception as error:
        answer.send((isinstance(error, ValueError), f"{error}" or type(error).__name__))
    else:
        answer.send(None)


def _check(answer: Connection) -> None:
    try:
        error = answer.recv()
    except EOFError:
        raise RuntimeError("a worker was killed: is there memory for so many? Lower workers.") from None
    if error is not None:
        refused, message = error
        raise ValueError(message) if refused else RuntimeError(f"a worker failed: {message}")


def check_workers(workers: Any) -> None:
    """
    Raises:
        ValueError: it is no whole number of at least 1.
    """
    if isinstance(workers, bool) or not isinstance(workers, int) or workers < 1:
        raise ValueError(f"workers={workers} must be a whole number of processes, at least 1.")
