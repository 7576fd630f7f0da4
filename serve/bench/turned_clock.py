"""An event loop whose clock is turned by hand: sleeping costs nothing, and a busy machine changes nothing."""

import asyncio
from collections.abc import Callable, Coroutine
from concurrent.futures import Executor
from selectors import SelectorKey
from typing import Any, TypeVar

Result = TypeVar("Result")


class TurnedClock(asyncio.SelectorEventLoop):
    """Time moves on when every task waits for it and no thread works, and then at once to the next timer.

    grace_s: real time in which a socket of this process may still become ready before that.
    """

    def __init__(self, grace_s: float = 0.0) -> None:
        super().__init__()
        self._now_s, self._grace_s, self._working = 0.0, grace_s, 0
        selector = self._selector  # pyright: ignore[reportAttributeAccessIssue]
        self._wait, selector.select = selector.select, self._select

    def time(self) -> float:
        return self._now_s

    def run_in_executor(self, executor: Executor | None, function: Callable[..., Any], *args: Any) -> asyncio.Future:
        self._working += 1
        future = super().run_in_executor(executor, function, *args)
        future.add_done_callback(self._has_worked)
        return future

    def _has_worked(self, future: asyncio.Future) -> None:
        self._working -= 1

    def _select(self, timeout: float | int | None) -> list[tuple[SelectorKey, int]]:
        if timeout is None or (timeout and self._working):
            return self._wait(None)
        ready = self._wait(min(timeout, self._grace_s))
        if not ready:
            self._now_s += timeout
        return ready


def run(work: Coroutine[Any, Any, Result], *, grace_s: float = 0.0) -> Result:
    """As `asyncio.run`, on a turned clock."""
    with asyncio.Runner(loop_factory=lambda: TurnedClock(grace_s)) as runner:
        return runner.run(work)
