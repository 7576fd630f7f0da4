"""Threads of low priority, for recognition and voices: they must not take the cores from picture and sound."""

import asyncio
import ctypes
import os
import platform
import sys
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import ParamSpec, TypeVar

NICENESS = 10
WORKERS = 4
M_ARENA_MAX = -8  # of glibc's malloc.h
Arguments = ParamSpec("Arguments")
Result = TypeVar("Result")


def lower_priority() -> None:
    """Give the calling thread the low priority."""
    if sys.platform == "linux":  # where a thread has a priority of its own
        os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), NICENESS)


def _share_one_heap() -> None:
    """glibc gives each thread a heap, and each keeps the room of the longest sentence that it has ever spoken."""
    if platform.libc_ver()[0] == "glibc":
        ctypes.CDLL(None).mallopt(M_ARENA_MAX, 1)


class LowPriority:
    """A pool of such threads."""

    def __init__(self) -> None:
        _share_one_heap()
        self._pool = ThreadPoolExecutor(WORKERS, thread_name_prefix="low", initializer=lower_priority)

    async def run(
        self, function: Callable[Arguments, Result], *args: Arguments.args, **kwargs: Arguments.kwargs
    ) -> Result:
        return await asyncio.get_running_loop().run_in_executor(self._pool, lambda: function(*args, **kwargs))

    def load(self, make: Callable[[], Result]) -> Result:
        """What `make` builds; the threads that a library starts meanwhile have the low priority too."""
        return self._pool.submit(make).result()

    def close(self) -> None:
        self._pool.shutdown(wait=False, cancel_futures=True)
