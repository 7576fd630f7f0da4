"""Threads for work that may wait: hearing and speaking must not take the cores from picture and sound."""

import asyncio
import os
import sys
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import ParamSpec, TypeVar

NICENESS = 10
WORKERS = 4
Arguments = ParamSpec("Arguments")
Result = TypeVar("Result")


def _be_nice() -> None:
    if sys.platform == "linux":  # where a thread has a priority of its own
        os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), NICENESS)


class LowPriority:
    """A pool of such threads."""

    def __init__(self) -> None:
        self._pool = ThreadPoolExecutor(WORKERS, thread_name_prefix="low", initializer=_be_nice)

    async def run(
        self, function: Callable[Arguments, Result], *args: Arguments.args, **kwargs: Arguments.kwargs
    ) -> Result:
        return await asyncio.get_running_loop().run_in_executor(self._pool, lambda: function(*args, **kwargs))

    def load(self, make: Callable[[], Result]) -> Result:
        """What `make` builds; the threads that a library starts meanwhile have the low priority too."""
        return self._pool.submit(make).result()

    def close(self) -> None:
        self._pool.shutdown(wait=False, cancel_futures=True)
