"""Who waits for a place: how many may, for how long, and who is next. It knows no database: simulations run it too."""

from collections.abc import Awaitable, Callable, Sequence
from typing import Any

QUEUE_S = 180.0  # as long as Runway's own clients wait
MAX_WAITING = 500  # of a small server
SEEN = 100  # of those who wait, at a time


def max_waiting(places: int) -> int:
    """Whoever comes after so many that wait is refused. A place becomes free for each of `places` within a session's
    time, which is not much longer than people wait."""
    return max(MAX_WAITING, places)


class SessionQueue:
    """`go_on` whenever a place may be free: the first who asked is the first who is let in."""

    def __init__(
        self,
        let_in: Callable[[Any], Awaitable[bool]],
        *,
        give_up: Callable[[Any], Awaitable[None]],
        tell: Callable[[], Awaitable[None]],
        now_ms: Callable[[], int],
    ) -> None:
        """let_in: False where there is no place, for nobody. give_up: what has waited for `QUEUE_S`. tell: everybody
        who is in the queue that they are."""
        self.let_in, self.give_up, self.tell, self.now_ms = let_in, give_up, tell, now_ms

    async def go_on(self, waiting: Sequence[Any]) -> None:
        """waiting: the first of the queue, in their order; each has `created_ms` and `queued`."""
        for position, asking in enumerate(waiting):
            if self.now_ms() > asking.created_ms + 1000 * QUEUE_S:
                await self.give_up(asking)
            elif not await self.let_in(asking):
                if not all(each.queued for each in waiting[position:]):
                    await self.tell()
                return
