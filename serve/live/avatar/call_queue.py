"""Calls of all sessions to one engine process: each session's in its order, and between sessions the most urgent."""

import asyncio
import logging
from collections import deque
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import Any

from serve.live.avatar.changes import ChangeRefusedError
from serve.live.traces import CHUNK, ChunkSpan
from serve.scheduler import Policy, Scheduler, least_slack

log = logging.getLogger(__name__)

CHANGE = "change"  # the method of `Engines`
TRACED = "traced"  # the one that is sent where a chunk is a span, with the name of the one that makes it
CHANGE_SHARE = 0.1  # of the engine's time that changes of one session may take before they wait for idle moments
SLOW = 1.3  # times what chunks take on the average: a session's that take longer wait for idle moments
BURST_CHUNKS = 3  # ahead of its share that a session may be, as one chunk may take long
WAITING_CHANGES = 60  # of one session

Send = Callable[[str, tuple[Any, ...]], Awaitable[Any]]


@dataclass(frozen=True, slots=True)
class _Call:
    name: str
    arguments: tuple[Any, ...]
    due_s: float | None  # of a chunk
    called_s: float
    answer: asyncio.Future[Any]
    span: ChunkSpan | None


@dataclass(slots=True)
class _Line:
    """What one session waits for."""

    calls: deque[_Call] = field(default_factory=deque)
    offered: _Call | None = None  # to the scheduler
    changes_due_s: float = 0.0  # until then its share is used up by what it changed
    chunks_due_s: float = 0.0  # and by its chunks


class CallQueue:
    """`call` from any session; one call at a time is sent.

    A chunk must be there when its player runs dry, anything else within a chunk's time; which session is next, the
    policy says. A session that takes more than its share waits for idle moments: by its changes (a prompt, numbers, a
    rewind), which then go behind its chunks, or by chunks that take longer than those of others. So whoever floods the
    engine, or is slow, delays nobody.
    """

    def __init__(
        self,
        send: Send,
        *,
        policy: Policy = least_slack,
        max_load: float = 1.0,
        on_wait: Callable[[float], None] = lambda ms: None,
    ) -> None:
        """on_wait: milliseconds that a chunk has waited for other sessions."""
        self.send, self.on_wait = send, on_wait
        self.period_s, self.cost_s, self.least_s = 1.0, 0.0, 0.0  # of a chunk, until `measured`
        self.scheduler = Scheduler(_now, policy=policy, max_load=max_load)
        self._lines: dict[str, _Line] = {}
        self._sending: asyncio.Task[None] | None = None

    def measured(self, *, period_s: float, cost_s: float, least_s: float = 0.0) -> None:
        """A chunk plays for `period_s`, and takes `cost_s` of the engine.

        least_s: that a chunk counts as, however soon its call is answered: where chunks overlap, it is answered by the
            chunk before, which was made between two calls.
        """
        self.period_s, self.cost_s, self.least_s = period_s, cost_s, least_s

    @property
    def room(self) -> int:
        """How many more sessions fit, as chunks have lately taken."""
        return self.scheduler.room(period_s=self.period_s, cost_s=self.cost_s)

    def open(self, session: str) -> None:
        """Count a session from now on; its calls may come."""
        if session not in self._lines:
            self._lines[session] = _Line()
            self.scheduler.open(session, period_s=self.period_s, cost_s=self.cost_s)

    def close(self, session: str) -> None:
        """Forget a session; calls that wait are cancelled."""
        if session in self._lines:
            for call in self._lines.pop(session).calls:
                call.answer.cancel()
            self.scheduler.close(session)

    async def call(self, session: str, name: str, *arguments: Any, within_s: float | None = None) -> Any:
        """The answer.

        Args:
            within_s: in which a chunk must be there; None: it is no chunk.

        Raises:
            ChangeRefusedError: too many changes of the session wait.
            Exception: whatever sending raises.
        """
        self.open(session)
        line, now = self._lines[session], _now()
        if name == CHANGE and len(line.calls) >= WAITING_CHANGES:
            raise ChangeRefusedError(f"{len(line.calls)} changes wait for the engine already. Wait for their receipts.")
        due_s = None if within_s is None else now + within_s
        call = _Call(name, arguments, due_s, now, asyncio.get_running_loop().create_future(), CHUNK.get())
        line.calls.append(call)
        self._offer(session)
        self._send_next()
        return await call.answer

    def _offer(self, session: str) -> None:
        """The session's next call may be chosen."""
        line, stream, now = self._lines[session], self.scheduler.streams[session], _now()
        calls = [call for call in line.calls if not call.answer.done()]  # the callers of others have gone
        over = line.changes_due_s > now
        if over:  # chunks first
            calls.sort(key=lambda call: call.name == CHANGE)
        line.calls = deque(calls)
        if calls and (stream.ready_s is None or calls[0] is not line.offered):  # a chunk may have passed a change
            line.offered, due_s = calls[0], calls[0].due_s
            slow = line.chunks_due_s > now + BURST_CHUNKS * self.period_s
            background = (over and calls[0].name == CHANGE) or (slow and due_s is not None)
            self.scheduler.ready(
                session, deadline_s=now + self.period_s if due_s is None else due_s, background=background
            )

    def _send_next(self) -> None:
        if self._sending is not None or (chosen := self.scheduler.choose()) is None:
            return
        call = self._lines[chosen.name].calls.popleft()
        self.scheduler.served(chosen.name)  # now: whatever happens to the call, it is not chosen again
        self._sending = asyncio.create_task(self._answer(chosen.name, call))
        self._sending.add_done_callback(self._sent)

    def _sent(self, task: asyncio.Task[None]) -> None:
        self._sending = None
        if task.cancelled():
            return
        if error := task.exception():  # a mistake of this class is no secret, and no reason to keep all others waiting
            log.error("what a call took could not be counted", exc_info=error)
        self._send_next()

    async def _answer(self, session: str, call: _Call) -> None:
        begin, made = _now(), False
        if call.answer.done():  # its caller has gone
            return self._done(session, call, None)
        if call.due_s is not None:
            self.on_wait(1000 * (begin - call.called_s))
        try:
            answer = await self.send(*_spanned(call, begin))
            made = True
        except Exception as error:  # it is the caller's
            if not call.answer.done():
                call.answer.set_exception(error)
        else:
            if not call.answer.done():
                call.answer.set_result(answer)
        self._done(session, call, _now() - begin if made else None)

    def _done(self, session: str, call: _Call, took_s: float | None) -> None:
        line = self._lines.get(session)
        if line is None:  # closed meanwhile
            return
        try:
            self._count(session, line, call, took_s)
        finally:
            self._offer(session)

    def _count(self, session: str, line: _Line, call: _Call, took_s: float | None) -> None:
        if took_s is not None and call.due_s is not None:
            took_s = max(took_s, self.least_s)
            self.scheduler.done(session, took_s=took_s)
            self.cost_s += 0.05 * (took_s - self.cost_s)
            share = SLOW * self.cost_s / self.period_s
            over_s = took_s / share if share else 0.0  # nothing has taken any time yet
            line.chunks_due_s = max(_now() - took_s, line.chunks_due_s) + over_s
        if took_s is not None and call.name == CHANGE:
            line.changes_due_s = max(_now() - took_s, line.changes_due_s) + took_s / CHANGE_SHARE


def _spanned(call: _Call, now_s: float) -> tuple[str, tuple[Any, ...]]:
    """Method and arguments; where the chunk is a span, with what the engine's own spans belong to."""
    if call.span is None:
        return call.name, call.arguments
    call.span.waited(now_s - call.called_s)
    return TRACED, (call.span.carrier(), call.name, *call.arguments)


def _now() -> float:
    return asyncio.get_running_loop().time()
