"""Who is let in: as many sessions as the machine can hold, each behind a key of its own."""

import asyncio
import logging
import math
import secrets
import time
from collections import OrderedDict
from collections.abc import Callable, Iterable
from ipaddress import ip_address, ip_network
from typing import TypeVar

from serve.live.gauges import Gauges
from serve.live.http.refusals import FullError, NotHereError
from serve.live.http.session import Session

log = logging.getLogger(__name__)

WAITING_PER_VISITOR = 2  # places without a connection; a page that is loaded again needs a second one
EVICTED_AFTER_S = 5.0  # a client connects within a second or two of its request
RESTARTS = "The server restarts."
VISITORS = 1_000  # addresses whose rate is remembered


def place_of(address: str) -> str:
    """What one visitor cannot change at will: an address, or of IPv6 the network that a household is given."""
    try:
        found = ip_address(address)
    except ValueError:  # a proxy may write a name there
        return address
    return str(ip_network((found, 64), strict=False)) if found.version == 6 else address


class Rate:
    """At most `limit` events of one visitor in `window_s`."""

    def __init__(self, limit: int, window_s: float) -> None:
        self.limit, self.window_s = limit, window_s
        self._times: OrderedDict[str, list[float]] = OrderedDict()

    def check(self, visitor: str) -> None:
        """Count one event of this visitor.

        Raises:
            FullError: one too many.
        """
        now = time.monotonic()
        times = [then for then in self._times.pop(visitor, []) if now - then < self.window_s]
        self._times[visitor] = times
        while len(self._times) > VISITORS:
            self._times.popitem(last=False)
        if len(times) >= self.limit:
            wait_s = math.ceil(self.window_s - (now - times[0]))
            raise FullError(f"Too many requests. Try again in {wait_s} s.", reason="rate", retry_after_s=wait_s)
        times.append(now)


AnySession = TypeVar("AnySession", bound=Session)


class Admission:
    """All sessions of a server. After `drain` nobody new is let in.

    A place is easily taken and not used: each visitor has at most `WAITING_PER_VISITOR` places without a connection,
    and one that has waited for `EVICTED_AFTER_S` is given to the next who asks when there is no other.
    """

    def __init__(self, *, capacity: Callable[[], int], retry_after_s: int, gauges: Gauges) -> None:
        """capacity: sessions at once; asked anew each time, as it follows what the engines take."""
        self._capacity, self.retry_after_s, self.gauges = capacity, retry_after_s, gauges
        self.sessions: dict[str, Session] = {}
        self.draining = False
        self._evictions: set[asyncio.Task[None]] = set()
        gauges.capacity.set_function(lambda: self.capacity)
        gauges.free.set_function(lambda: self.free)
        gauges.draining.set_function(lambda: self.draining)

    @property
    def capacity(self) -> int:
        """Sessions that there is room for, those that are open among them."""
        return self._capacity()

    @property
    def free(self) -> int:
        """Places for whoever asks now."""
        return 0 if self.draining else max(0, self.capacity - len(self.sessions))

    def open(self, make: Callable[[str, Callable[[], None]], AnySession], visitor: str) -> AnySession:
        """Let in what `make` builds from an id and from what it must call at its end.

        Raises:
            FullError: every place is taken, or the server is about to stop.
        """
        if self.draining:
            raise FullError(
                "The server is about to restart. Try again in a minute.", reason="draining", retry_after_s=60
            )
        mine = [session for session in self.sessions.values() if session.waiting and session.visitor == visitor]
        if len(mine) >= WAITING_PER_VISITOR and not self._evict_one_of(mine):
            message = f"{len(mine)} of your sessions wait to be connected. Connect one, or try again in 5 s."
            raise FullError(message, reason="waiting", retry_after_s=5)
        if len(self.sessions) >= self.capacity and not self._evict_one_of(self.sessions.values()):
            message = f"All {self.capacity} places are taken. Try again in {self.retry_after_s} s."
            raise FullError(message, reason="full", retry_after_s=self.retry_after_s)
        session_id = secrets.token_hex(8)
        session = make(session_id, lambda: self._forget(session_id))
        session.visitor = visitor
        self.sessions[session_id] = session
        self.gauges.sessions.set(len(self.sessions))
        session.start()
        return session

    def get(self, session_id: str, kind: type[AnySession]) -> AnySession:
        """The open session of this id.

        Raises:
            NotHereError: there is no such session of this kind, or no longer.
        """
        session = self.sessions.get(session_id)
        if not isinstance(session, kind):
            raise NotHereError("This session is over. Begin a new one.")
        return session

    async def drain(self, *, within_s: float) -> None:
        """Let nobody in, wait for the sessions to end, and end those that do not."""
        self.draining = True
        begin = time.monotonic()
        while self.sessions and time.monotonic() - begin < within_s:
            await asyncio.sleep(0.1)
        closing = [session.close(RESTARTS) for session in list(self.sessions.values())]
        await asyncio.gather(*closing, *self._evictions)

    def _evict_one_of(self, sessions: Iterable[Session]) -> bool:
        """Free the place of the session that has waited longest for its visitor; False where none has waited long."""
        now = time.monotonic()
        oldest = next(
            (each for each in sessions if each.waiting and each.evictable and now - each.begin_s > EVICTED_AFTER_S),
            None,
        )
        if oldest is None:
            return False
        self._forget(oldest.id)
        task = asyncio.create_task(oldest.close("Nobody connected, and somebody else has asked for the place."))
        self._evictions.add(task)
        task.add_done_callback(self._evictions.discard)
        return True

    def _forget(self, session_id: str) -> None:
        self.sessions.pop(session_id, None)
        self.gauges.sessions.set(len(self.sessions))
