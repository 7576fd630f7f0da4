"""Processes that share work with this one: each does a part of it, and all must succeed."""

import multiprocessing
import os
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from typing import Any

import torch


@contextmanager
def beside(work: Callable[..., None], *arguments: Any, workers: int) -> Iterator[None]:
    """Run work(rank, *arguments) for ranks 1 to `workers` - 1, each in a process of its own, while the body does what
    rank 0 has to do; wait for them at its end. None is left after an error, nor when this process is killed.

    Raises:
        RuntimeError: one of them was killed.
        Exception: the first that one of them raised.
    """
    if workers == 1:
        yield
        return
    before, spawn = torch.get_num_threads(), multiprocessing.get_context("spawn")
    threads, others = max(1, before // workers), set(multiprocessing.active_children())
    given = threads, os.getpid()
    with ProcessPoolExecutor(workers - 1, mp_context=spawn, initializer=_begin, initargs=given) as pool:
        try:
            parts = [pool.submit(work, rank, *arguments) for rank in range(1, workers)]
            torch.set_num_threads(threads)
            yield
            for part in as_completed(parts):
                part.result()
        except BaseException as error:
            for process in set(multiprocessing.active_children()) - others:
                process.kill()
            if isinstance(error, BrokenProcessPool):
                raise RuntimeError("a worker was killed: is there memory for so many? Lower workers.") from error
            raise
        finally:
            torch.set_num_threads(before)


def device_of(rank: int) -> torch.device:
    """GPUs in turn, where there are any."""
    count = torch.cuda.device_count()
    return torch.device("cuda", rank % count) if count else torch.device("cpu")


def end_with_parent(parent: int) -> None:
    """End this process when its parent has ended, also where that was killed, or has ended already."""

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(1)
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()


def _begin(threads: int, parent: int) -> None:
    end_with_parent(parent)
    torch.set_num_threads(threads)


def check_workers(workers: Any) -> None:
    """
    Raises:
        ValueError: it is no whole number of at least 1.
    """
    if isinstance(workers, bool) or not isinstance(workers, int) or workers < 1:
        raise ValueError(f"workers={workers} must be a whole number of processes, at least 1.")
