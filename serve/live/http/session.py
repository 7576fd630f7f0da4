"""One visitor's place in the server: an engine, a key, and the time limits that every kind of session obeys."""

import asyncio
import logging
import math
import secrets
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Coroutine
from dataclasses import dataclass
from typing import Any, Protocol

from serve.live.avatar.chunk_times import StreamTiming
from serve.live.avatar.performer import Face, Performer
from serve.live.characters import Character
from serve.live.gauges import Gauges
from serve.live.http.refusals import NotHereError, WrongKeyError
from serve.live.log_lines import SESSION
from serve.live.options import at_least
from serve.live.speech.tools import Call
from serve.live.speech.turns import Event
from serve.live.traces import SessionTrace


class OneTimeKey:
    """`use` it once; the key after it is then in `value`."""

    def __init__(self, first: str | None = None) -> None:
        self.value = first or secrets.token_urlsafe(24)

    def check(self, key: str) -> None:
        """Compare in constant time.

        Raises:
            WrongKeyError: the key was used before, or never given out.
        """
        if not secrets.compare_digest(key.encode(), self.value.encode()):
            raise WrongKeyError("The session key is not valid, or was used before. Begin a new session.")

    def use(self, key: str) -> None:
        """Accept the key and make the next one.

        Raises:
            WrongKeyError: as `check`.
        """
        self.check(key)
        self.value = secrets.token_urlsafe(24)


log = logging.getLogger(__name__)

WATCH_S = 1.0  # between two looks at the time limits
CLOSE_S = 5.0  # for tasks to end by themselves
BROKEN = "Something went wrong on the server. Please start again."


@dataclass(frozen=True, slots=True, kw_only=True)
class Timeouts:
    """How long a session is kept."""

    connect_s: float  # from its request to its first connection
    reconnect_s: float  # without a connection, when the network was cut
    session_s: float  # altogether

    def __post_init__(self) -> None:
        for name in self.__slots__:
            at_least(f"timeouts.{name}", getattr(self, name), 0.1)


class Witness(Protocol):
    """Receives the events of a session."""

    def connected(self) -> None: ...

    def said(self, event: Event) -> None: ...

    def called(self, call: Call) -> None: ...

    def ended(self, reason: str) -> None: ...


@dataclass(frozen=True, slots=True, kw_only=True)
class SessionParts:
    """What every kind of session has."""

    id: str
    character: Character
    face: Face
    timing: StreamTiming
    timeouts: Timeouts
    gauges: Gauges
    on_end: Callable[[], None]
    trace: SessionTrace | None = None


class Session(ABC):
    """It begins with `start`, and ends by `close` or when one of its time limits is over; `key` opens a connection."""

    def __init__(self, parts: SessionParts) -> None:
        self.id, self.key, self.character, self.face = parts.id, OneTimeKey(), parts.character, parts.face
        self.timing, self.timeouts, self.gauges = parts.timing, parts.timeouts, parts.gauges
        self.on_end = parts.on_end
        self.trace = parts.trace
        self.performer = Performer(
            parts.face,
            parts.timing,
            on_step=parts.gauges.step_ms.observe,
            on_chunk=parts.gauges.count_chunk,
            trace=parts.trace,
        )
        self.visitor = ""  # the address that asked for it
        self.begin_s = time.monotonic()
        self.waiting = True  # for its first connection
        self.evictable = True  # while it waits, and somebody else asks for its place
        # Origins of other sites whose pages may connect with its key; None: of any.
        self.open_to: frozenset[str] | None = frozenset()
        self.witness: Witness | None = None
        self._deadline_s = self.begin_s + parts.timeouts.connect_s  # for a connection to open
        self._ending: asyncio.Task[None] | None = None
        self._tasks: list[asyncio.Task[None]] = []
        self._short_tasks: set[asyncio.Task[None]] = set()

    def start(self) -> None:
        SESSION.set(self.id)  # for the tasks that begin here
        log.info("%s opened with %s", type(self).__name__.lower(), self.character.key)
        for work in (self.performer.run(), *self._work(), self._watch()):
            self._tasks.append(asyncio.create_task(work))

    def spawn(self, work: Coroutine[Any, Any, None]) -> None:
        """Something short that nobody waits for; the end of the session cancels it at the latest."""
        task = asyncio.create_task(work)
        self._short_tasks.add(task)
        task.add_done_callback(self._short_tasks.discard)

    def connected(self) -> None:
        if self.waiting and self.witness:
            self.witness.connected()
        self.waiting, self._deadline_s = False, math.inf

    def disconnected(self) -> None:
        self._deadline_s = time.monotonic() + self.timeouts.reconnect_s

    def check_open(self) -> None:
        """Refuse what comes after the end.

        Raises:
            NotHereError: the session has ended, or is about to.
        """
        if self._ending:
            raise NotHereError("This session is over. Begin a new one.")

    async def close(self, reason: str) -> None:
        """End everything that belongs to it, once, and also when whoever asks for it goes away meanwhile."""
        if not self._ending:
            self._ending = asyncio.create_task(self._end(reason))
        await asyncio.shield(self._ending)

    def _work(self) -> list[Coroutine[Any, Any, None]]:
        """What runs from the start to the end, besides the performer."""
        return []

    @abstractmethod
    def _report(self) -> None:
        """Called every second."""

    @abstractmethod
    def _announce_end(self, reason: str) -> None:
        """Tell the visitor why the session ends."""

    @abstractmethod
    async def _disconnect(self) -> None: ...

    async def _end(self, reason: str) -> None:
        log.info("session ends: %s", reason)
        try:
            self._announce_end(reason)
            tasks = [*self._tasks, *self._short_tasks]
            for task in tasks:
                task.cancel()
            if tasks:
                await asyncio.wait(tasks, timeout=CLOSE_S)
            await self._disconnect()
        finally:  # engine and place are free, whatever went wrong
            try:
                await self.face.stop()
            finally:
                if self.witness:
                    self.witness.ended(reason)
                self.on_end()

    async def _watch(self) -> None:
        while True:
            await asyncio.sleep(WATCH_S)
            if reason := self._end_reason():
                return await self.close(reason)
            self._report()

    def _end_reason(self) -> str:
        """Why the session must end now; empty while it may go on."""
        now = time.monotonic()
        if any(task.done() for task in self._tasks):
            return BROKEN
        if now > self.begin_s + self.timeouts.session_s:
            return f"A session lasts {self.timeouts.session_s / 60:.0f} minutes."
        return "Nobody is connected." if now > self._deadline_s else ""
