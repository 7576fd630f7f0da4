"""Whatever holds an engine and a place: a conversation, or a face alone."""

import asyncio
from abc import ABC, abstractmethod

from serve.live.keys import OneTimeKey


class Guest(ABC):
    """It begins with `start` and ends by itself or by `close`; `key` opens its connection."""

    def __init__(self, guest_id: str) -> None:
        self.id, self.key = guest_id, OneTimeKey()
        self._ending: asyncio.Task[None] | None = None

    @abstractmethod
    def start(self) -> None: ...

    async def close(self, reason: str) -> None:
        """End everything that belongs to it, once, and also when whoever asks for it goes away meanwhile."""
        if not self._ending:
            self._ending = asyncio.create_task(self._end(reason))
        await asyncio.shield(self._ending)

    @abstractmethod
    async def _end(self, reason: str) -> None: ...
