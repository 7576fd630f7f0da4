"""Each change that a client asks for is answered: {"type": "receipt", "of": its type, "id": its id if it has one,
"accepted": true, "chunk", "media_s"}, or "accepted": false with a "reason".
"""

from collections.abc import Callable, Coroutine
from typing import Any, Protocol, runtime_checkable

from serve.acts import Applied
from serve.live.avatar.changes import Change, ChangeRefusedError, read_change
from serve.live.avatar.performer import FaceLostError
from serve.live.http.admission import Rate
from serve.live.http.refusals import FullError

CHANGES, WINDOW_S = 60, 2.0  # as many in this time; a game that sends its keys with every frame needs 48
ID_CHARS = 64


@runtime_checkable
class Changing(Protocol):
    """What follows changes: a face, or who performs with it."""

    async def change(self, change: Change) -> Applied:
        """As `Face.change`."""
        ...


class Changes:
    """Changes of one session: `handle` reads a message, and the receipt is sent when the engine has answered."""

    def __init__(
        self,
        face: Changing,
        *,
        send: Callable[[dict[str, Any]], None],
        spawn: Callable[[Coroutine[Any, Any, None]], None],
    ) -> None:
        """spawn: runs something short that nobody waits for."""
        self.face, self.send, self.spawn = face, send, spawn
        self._rate = Rate(CHANGES, WINDOW_S)

    def handle(self, message: dict[str, Any]) -> bool:
        """Whether the message asks for a change, which is then applied."""
        receipt = {"type": "receipt", "of": message.get("type")}
        if isinstance(name := message.get("id"), str | int):
            receipt["id"] = name[:ID_CHARS] if isinstance(name, str) else name
        try:
            change = read_change(message)
            if change is None:
                return False
            self._rate.check("")
        except (ValueError, FullError) as error:
            self.send(receipt | {"accepted": False, "reason": str(error)})
            return True
        self.spawn(self._apply(change, receipt))
        return True

    async def _apply(self, change: Change, receipt: dict[str, Any]) -> None:
        try:
            applied = await self.face.change(change)
        except (ChangeRefusedError, FaceLostError) as error:
            return self.send(receipt | {"accepted": False, "reason": str(error)})
        self.send(receipt | {"accepted": True, "chunk": applied.chunk, "media_s": round(applied.media_s, 3)})
