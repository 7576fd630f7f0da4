"""Whatever holds an engine and a place: a conversation, or a face alone."""

import asyncio
from abc import ABC, abstractmethod
from collections.abc import Coroutine
from typing import Any

from serve.live.keys import OneTimeKey


class Guest(ABC):
    """It begins with `start` and ends by itself or by `close`; `key` opens its connection."""

    def __init__(self, guest_id: str) -> None:
        self.id, self.key = guest_id, OneTimeKey()
        self._ending: asyncio.Task[None] | None = None
        self.errands: set[asyncio.Task[None]] = set()

    def do(self, work: Coroutine[Any, Any, None]) -> None:
        """Something short that nobody waits for; `_end` ends it at the latest."""
        task = asyncio.create_task(work)
        self.errands.add(task)
        task.add_done_callback(self.errands.discard)

    @abstractmethod
    def start(self) -> None: ...

    async def close(self, reason: str) -> None:
        """End everything that belongs to it, once, and also when whoever asks for it goes away meanwhile."""
        if not self._ending:
            self._ending = asyncio.create_task(self._end(reason))
        await asyncio.shield(self._ending)

    @abstractmethod
    async def _end(self, reason: str) -> None: ...
