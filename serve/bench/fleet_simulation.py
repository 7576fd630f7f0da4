"""Thousands of sessions on simulated machines, in simulated time, behind the queue and admission of the live server.

What is simulated are visitors, engines and failures. Who waits, who is let in, who is refused and where a session is
placed is decided by `SessionQueue`, `Admission`, `EnginePool` and `Scheduler` as in a server that runs.
"""

import asyncio
import math
import random
from collections.abc import Callable, Coroutine, Sequence
from dataclasses import dataclass, field
from itertools import islice
from typing import Any

import numpy as np

from serve.bench import turned_clock
from serve.live.avatar.chunk_times import StreamTiming
from serve.live.avatar.engine_pool import EnginePool
from serve.live.avatar.engines import EngineOptions
from serve.live.avatar.process_face import ProcessFace
from serve.live.characters import Character
from serve.live.gauges import Gauges
from serve.live.http.admission import Admission
from serve.live.http.session import BROKEN, Session, SessionParts, Timeouts
from serve.runway_api.session_queue import SEEN, SessionQueue, max_waiting

LOOK_S = 0.5  # between two looks at who waits, as in the server
SAMPLE_S = 5.0  # between two counts of open sessions
TRIES = 8  # pairs of machines that are looked at before the first one with room is taken
TIMING = StreamTiming(chunk_samples=1, lookahead_samples=0, frame_samples=1, sample_rate=1, lead_samples=1)
NEVER = Timeouts(connect_s=math.inf, reconnect_s=math.inf, session_s=math.inf)
NOBODY = Character("nobody", "Nobody", np.zeros((1, 1, 3), np.uint8), "")


@dataclass(frozen=True, slots=True, kw_only=True)
class Machine:
    """One worker: its devices, and what a chunk takes there.

    Raises:
        ValueError: not even one session fits.
    """

    devices: int
    period_s: float  # that a chunk plays
    chunk_s: float  # that a device takes for it
    max_load: float  # of a device's time that sessions are promised

    def __post_init__(self) -> None:
        if self.devices < 1 or self.chunk_s > self.max_load * self.period_s:
            raise ValueError(
                f"devices={self.devices} must be at least 1, and chunk_s={self.chunk_s:.3f} at most "
                f"max_load * period_s = {self.max_load * self.period_s:.3f}: else there is no place for a session."
            )


@dataclass(frozen=True, slots=True, kw_only=True)
class Demand:
    """Who comes. Sessions last a random time of an exponential distribution, as long as `longest_s` at most."""

    load: float  # sessions that would be open at a time if nobody had to wait, over places
    mean_s: float
    longest_s: float

    @property
    def session_s(self) -> float:
        """Mean of the times."""
        return self.mean_s * (1 - math.exp(-self.longest_s / self.mean_s))


@dataclass(frozen=True, slots=True, kw_only=True)
class Failures:
    """A machine stops without a word: its sessions are lost, and whoever was in one asks again at once."""

    mean_h: float | None = None  # between two failures of one machine; None: there are none
    repair_s: float = 120.0  # until it, or another in its place, is ready
    at_s: float | None = None  # when a share of all machines fails at the same time
    share: float = 0.0


@dataclass(slots=True)
class Outcome:
    """Counts of what was asked for after the warm-up."""

    asked: int = 0
    refused: int = 0  # at once, as too many waited
    gave_up: int = 0  # after `QUEUE_S`
    lost: int = 0  # sessions on machines that failed
    waits_s: list[float] = field(default_factory=list)  # of those who were let in
    open: list[int] = field(default_factory=list)  # every `SAMPLE_S`
    waiting: list[int] = field(default_factory=list)

    def summary(self, places: int) -> dict[str, float | int]:
        waits = np.array(self.waits_s or [0.0])
        return {
            "asked": self.asked,
            "refused_share": self.refused / max(1, self.asked),
            "gave_up_share": self.gave_up / max(1, self.asked),
            "lost": self.lost,
            "wait_s_mean": float(waits.mean()),
            **{f"wait_s_p{p}": float(np.percentile(waits, p)) for p in (50, 95, 99)},
            "used_share": float(np.mean(self.open)) / places,
        }


class _Visit(Session):
    """A session that only takes its place."""

    def __init__(self, session_id: str, face: ProcessFace, gauges: Gauges, on_end: Callable[[], None]) -> None:
        parts = SessionParts(
            id=session_id,
            character=NOBODY,
            face=face,
            timing=TIMING,
            timeouts=NEVER,
            gauges=gauges,
            on_end=on_end,
        )
        super().__init__(parts)
        self.over = asyncio.get_running_loop().create_future()

    def start(self) -> None: ...

    def _report(self) -> None: ...

    def _announce_end(self, reason: str) -> None: ...

    async def _disconnect(self) -> None:
        self.over.set_result(None)


class _Worker:
    """A machine with the server's own admission and engine pool."""

    def __init__(self, machine: Machine, gauges: Gauges) -> None:
        self.gauges, self.works, self.known_free = gauges, True, 0
        self.engines = EnginePool(
            EngineOptions(artifact="", slots=10_000), ["cpu"] * machine.devices, max_load=machine.max_load
        )
        for process in self.engines.processes:
            process.queue.measured(period_s=machine.period_s, cost_s=machine.chunk_s)
            process.queue.send = _answered
        self.admission = Admission(capacity=lambda: self.engines.capacity, retry_after_s=0, gauges=gauges)

    @property
    def free(self) -> int:
        return self.admission.free if self.works else 0

    def open(self, ended: Callable[[], None]) -> _Visit:
        """ended: called when the place is free again."""

        def make(session_id: str, on_end: Callable[[], None]) -> _Visit:
            def end() -> None:
                on_end()
                ended()

            face = ProcessFace(self.engines.place(session_id), session_id, NOBODY.portrait, seed=0)
            return _Visit(session_id, face, self.gauges, end)

        return self.admission.open(make, "")


@dataclass(eq=False, slots=True)
class _Asking:
    created_ms: int
    answer: asyncio.Future[_Visit | None]
    queued: bool = False


class Fleet:
    """Machines behind one queue, for as long as `run` takes."""

    def __init__(self, machines: int, machine: Machine, *, seed: int, limit: Callable[[int], int]) -> None:
        self.random, gauges = random.Random(seed), Gauges()
        self.workers = [_Worker(machine, gauges) for _ in range(machines)]
        self.with_room = dict[_Worker, None]()
        for worker in self.workers:
            self._note(worker)
        self.places = sum(worker.known_free for worker in self.workers)
        self.limit = limit(self.places)
        self.waiting: dict[_Asking, None] = {}
        self.outcome, self.num_open = Outcome(), 0
        self.queue = SessionQueue(self._let_in, give_up=self._give_up, tell=self._tell, now_ms=_now_ms)
        self._wake = asyncio.Event()
        self._visits: set[asyncio.Task[None]] = set()

    async def run(self, demand: Demand, failures: Failures, *, warm_up_s: float, seconds: float) -> Outcome:
        """Visitors come and go; counted are those who ask after the warm-up. At the start as many are there as the
        load says, or all places are taken."""
        work = [self._serve(), self._arrivals(demand), self._sample()]
        if failures.mean_h is not None:
            work.append(self._fail_singly(failures.mean_h, failures.repair_s))
        if failures.at_s is not None:
            work.append(self._fail_together(failures))
        limit, self.limit = self.limit, self.places  # of those who are there at the start nobody is refused
        for _ in range(min(self.places, round(demand.load * self.places))):
            self._start(self._visit(self._duration(demand)))
        tasks = [asyncio.create_task(each) for each in work]
        await _pass(LOOK_S, tasks)
        self.limit = limit
        await _pass(warm_up_s, tasks)
        self.outcome = Outcome()
        await _pass(seconds, tasks)
        outcome, self.outcome = self.outcome, Outcome()
        for task in (*tasks, *self._visits):
            task.cancel()
        await asyncio.gather(*tasks, *self._visits, return_exceptions=True)
        return outcome

    async def _serve(self) -> None:
        """As the server does: at every end of a session, and from time to time while somebody waits."""
        while True:
            try:
                await asyncio.wait_for(self._wake.wait(), LOOK_S if self.waiting else None)
            except TimeoutError:
                pass
            self._wake.clear()
            await self.queue.go_on(list(islice(self.waiting, SEEN)))
            if self.waiting and self.with_room:
                self._wake.set()

    async def _let_in(self, asking: _Asking) -> bool:
        worker = self._worker()
        if worker is None:
            return False
        visit = worker.open(lambda: self._ended(worker))
        visit.connected()  # nobody is asked to make room
        self.num_open += 1
        self._note(worker)
        self._answer(asking, visit)
        return True

    def _worker(self) -> _Worker | None:
        """Of two at random the one with more room, as Ray Serve's router chooses."""
        for _ in range(TRIES if self.with_room else 0):
            pair = self.random.choices(self.workers, k=2)
            chosen = max(pair, key=lambda worker: worker.known_free)
            if chosen.known_free:
                return chosen
        return next(iter(self.with_room), None)

    def _note(self, worker: _Worker) -> None:
        worker.known_free = worker.free  # it changes when a session comes or goes, and at no other time here
        if worker.known_free:
            self.with_room[worker] = None
        else:
            self.with_room.pop(worker, None)

    def _ended(self, worker: _Worker) -> None:
        self.num_open -= 1
        self._free_again(worker)

    def _free_again(self, worker: _Worker) -> None:
        self._note(worker)
        self._wake.set()

    async def _give_up(self, asking: _Asking) -> None:
        self._answer(asking, None)

    async def _tell(self) -> None:
        for asking in self.waiting:
            asking.queued = True

    def _answer(self, asking: _Asking, visit: _Visit | None) -> None:
        del self.waiting[asking]
        if not asking.answer.done():
            asking.answer.set_result(visit)

    async def _arrivals(self, demand: Demand) -> None:
        per_s = demand.load * self.places / demand.session_s
        while True:
            await asyncio.sleep(self.random.expovariate(per_s))
            self._start(self._visit(self._duration(demand)))

    def _duration(self, demand: Demand) -> float:
        return min(demand.longest_s, self.random.expovariate(1 / demand.mean_s))

    def _start(self, visit: Coroutine[Any, Any, None]) -> None:
        task = asyncio.create_task(visit)
        self._visits.add(task)
        task.add_done_callback(self._visits.discard)

    async def _visit(self, left_s: float) -> None:
        """One visitor, who asks again if the session is lost."""
        loop = asyncio.get_running_loop()
        while True:
            outcome, begin_s = self.outcome, loop.time()
            outcome.asked += 1
            if len(self.waiting) >= self.limit:
                outcome.refused += 1
                return
            asking = _Asking(_now_ms(), loop.create_future())
            self.waiting[asking] = None
            self._wake.set()
            visit = await asking.answer
            if visit is None:
                outcome.gave_up += 1
                return
            outcome.waits_s.append(loop.time() - begin_s)
            begin_s = loop.time()
            await asyncio.wait([visit.over], timeout=left_s)
            if not visit.over.done():
                return await visit.close("left")
            self.outcome.lost += 1
            left_s -= loop.time() - begin_s

    async def _fail_singly(self, mean_h: float, repair_s: float) -> None:
        while True:
            await asyncio.sleep(self.random.expovariate(len(self.workers) / (3600 * mean_h)))
            self._start(self._break_down(self.random.choice(self.workers), repair_s))

    async def _fail_together(self, failures: Failures) -> None:
        await asyncio.sleep(failures.at_s or 0.0)
        for worker in self.random.sample(self.workers, round(failures.share * len(self.workers))):
            self._start(self._break_down(worker, failures.repair_s))

    async def _break_down(self, worker: _Worker, repair_s: float) -> None:
        worker.works = False
        self._note(worker)
        for visit in list(worker.admission.sessions.values()):
            await visit.close(BROKEN)
        await asyncio.sleep(repair_s)
        worker.works = True
        self._free_again(worker)

    async def _sample(self) -> None:
        while True:
            self.outcome.open.append(self.num_open)
            self.outcome.waiting.append(len(self.waiting))
            await asyncio.sleep(SAMPLE_S)


def simulate(
    machines: int,
    machine: Machine,
    demand: Demand,
    failures: Failures,
    *,
    seed: int,
    warm_up_s: float,
    seconds: float,
    limit: Callable[[int], int] = max_waiting,
) -> tuple[int, Outcome]:
    """Places of the fleet, and what became of those who asked; limit: from places, how many may wait."""

    async def run() -> tuple[int, Outcome]:
        fleet = Fleet(machines, machine, seed=seed, limit=limit)
        return fleet.places, await fleet.run(demand, failures, warm_up_s=warm_up_s, seconds=seconds)

    return turned_clock.run(run())


async def _pass(seconds: float, tasks: Sequence[asyncio.Task[None]]) -> None:
    """Wait; a task that fails meanwhile fails here."""
    done, _ = await asyncio.wait(tasks, timeout=seconds, return_when=asyncio.FIRST_EXCEPTION)
    for task in done:
        task.result()


async def _answered(name: str, arguments: tuple[Any, ...]) -> None:
    """What an engine process answers to a session that ends."""


def _now_ms() -> int:
    return round(1000 * asyncio.get_running_loop().time())
