"""Whatever holds an engine and a place: a conversation, or a face alone."""

from abc import ABC, abstractmethod

from serve.live.keys import OneTimeKey


class Guest(ABC):
    """It begins with `start` and ends by itself or by `close`; `key` opens its connection."""

    def __init__(self, guest_id: str) -> None:
        self.id, self.key = guest_id, OneTimeKey()

    @abstractmethod
    def start(self) -> None: ...

    @abstractmethod
    async def close(self, reason: str) -> None:
        """End everything that belongs to it; once is enough."""
