"""A worker without Ray: what becomes of its sessions when it has to go."""

import asyncio
from collections.abc import AsyncIterator
from types import SimpleNamespace
from typing import Any

import pytest

from serve.fleet.options import OWNER
from serve.fleet.worker import DEAD_LOOKS, Worker
from serve.live.gauges import EngineNumbers, Gauges
from serve.live.http.admission import RESTARTS, Admission
from serve.store.database import Store
from serve.store.tables import Session
from tests.serve.live.http.test_admission import Visit


def bare(store: Store, admission: Admission) -> Worker:
    """One without a port."""
    worker: Any = Worker.__new__(Worker)
    worker.fleet = SimpleNamespace(drain_s=0.2)
    worker.url, worker._draining, worker._server = "http://worker", None, SimpleNamespace(admission=admission)
    worker._mounted = store, SimpleNamespace(owner="worker", wake=asyncio.Event(), open={})
    worker._open = SimpleNamespace(aclose=lambda: asyncio.sleep(0))
    return worker


def two_places() -> Admission:
    return Admission(capacity=lambda: 2, retry_after_s=30, gauges=Gauges())


def ask(store: Store, name: str = "new", *, status: str = "NOT_READY", owner: str = OWNER) -> None:
    row = Session(id=name, status=status, owner=owner, avatar_name="Noa", tools=[], max_s=60)
    store.do(lambda db: db.add(row))


def state(store: Store, name: str = "new") -> tuple[str, str | None]:
    """Status and owner of a session."""
    row = store.do(lambda db: db.get_one(Session, name), writes=False)
    return row.status, row.owner


async def ended(lease: AsyncIterator[dict[str, Any]]) -> list[dict[str, Any]]:
    """What a lease that is refused gives; one that is taken would last as long as its session."""

    async def items() -> list[dict[str, Any]]:
        return [item async for item in lease]

    task = asyncio.create_task(items())
    await asyncio.wait([task], timeout=10)
    assert task.done(), "the lease is held: the worker has taken a session that it must leave"
    return task.result()


def test_a_worker_that_drains_takes_no_session_and_its_own_have_time_to_end(tmp_path):
    async def run() -> None:
        store = Store(f"sqlite:///{tmp_path}/gwm.sqlite")
        worker = bare(store, places := two_places())
        visits = [places.open(Visit, name) for name in ("short", "long")]
        worker.drain(60.0)
        await asyncio.sleep(0)
        assert places.draining and not places.free and len(places.sessions) == 2
        ask(store)
        assert await ended(worker.hold("new")) == []
        assert state(store) == ("NOT_READY", OWNER)  # another worker's, then
        await visits[0].close("left")
        worker.drain(0.0)  # changes nothing
        await asyncio.sleep(0.3)
        assert list(places.sessions.values()) == [visits[1]]
        await visits[1].close("left")
        await worker.stop()
        store.close()

    asyncio.run(run())


@pytest.mark.parametrize("when", ["while it is taken", "before it is open"])
def test_a_session_that_is_taken_as_the_worker_begins_to_drain_is_given_back(tmp_path, when: str):
    """It would wait for a place that never comes; the gateway asks for another one."""

    async def run() -> None:
        store = Store(f"sqlite:///{tmp_path}/gwm.sqlite")
        worker = bare(store, two_places())
        ask(store)
        do, loop = store.do, asyncio.get_running_loop()

        def do_and_drain(function: Any, *, writes: bool = True) -> Any:
            found = do(function, writes=writes)
            if writes:
                loop.call_soon_threadsafe(worker.drain, 60.0)
            return found

        if when == "while it is taken":
            store.do = do_and_drain  # type: ignore[method-assign]
        else:
            loop.call_later(0.2, worker.drain, 60.0)
        assert await ended(worker.hold("new")) == []
        store.do = do  # type: ignore[method-assign]
        assert worker._draining is not None and state(store) == ("NOT_READY", OWNER)
        await worker.stop()
        store.close()

    asyncio.run(run())


def test_a_session_that_is_open_as_the_worker_begins_to_drain_stays_until_it_ends(tmp_path):
    async def run() -> None:
        store = Store(f"sqlite:///{tmp_path}/gwm.sqlite")
        worker = bare(store, two_places())
        ask(store)
        lease = worker.hold("new")
        rooms = worker._mounted[1]  # type: ignore[index]
        rooms.open["new"] = SimpleNamespace(id="room")
        assert await anext(lease) == {"url": "http://worker", "room_name": "room"}
        worker.drain(60.0)
        assert worker._server.admission.draining  # type: ignore[union-attr]  # at once, not when a task has its turn
        going = asyncio.create_task(anext(lease, None))
        await asyncio.sleep(1.2)
        assert not going.done()
        store.do(lambda db: setattr(db.get_one(Session, "new"), "status", "COMPLETED"))
        assert await asyncio.wait_for(going, 10) is None
        assert state(store) == ("COMPLETED", "worker")
        await worker.stop()
        store.close()

    asyncio.run(run())


def test_a_session_that_has_ended_or_is_another_workers_is_not_taken(tmp_path):
    async def run() -> None:
        store = Store(f"sqlite:///{tmp_path}/gwm.sqlite")
        worker = bare(store, two_places())
        for status in ("CANCELLED", "READY"):
            ask(store, status, status=status, owner="other")
            assert await ended(worker.hold(status)) == []
            assert state(store, status) == (status, "other")
        store.close()

    asyncio.run(run())


def test_sessions_that_do_not_end_in_time_are_ended(tmp_path):
    async def run() -> str:
        store = Store(f"sqlite:///{tmp_path}/gwm.sqlite")
        worker = bare(store, places := two_places())
        visit = places.open(Visit, "long")
        await worker.stop()
        store.close()
        return visit.reason

    assert asyncio.run(run()) == RESTARTS


def test_a_worker_is_ill_when_none_of_its_engine_processes_comes_back():
    """On whatever devices they are; one look that finds one alive is enough."""
    alive = [False, True]
    gauges = Gauges()
    gauges.watch(
        lambda: [
            EngineNumbers(device=f"cuda:{k}", alive=up, restarts=0, sessions=0, slots=1, load=0.0, chunk_ms=1.0)
            for k, up in enumerate(alive)
        ]
    )

    async def run() -> None:
        worker: Any = Worker.__new__(Worker)
        worker._server, worker._dead_looks = SimpleNamespace(gauges=gauges), 0
        for _ in range(2 * DEAD_LOOKS):
            await worker.check()
        alive[1] = False
        for _ in range(DEAD_LOOKS):
            await worker.check()
        alive[0] = True
        await worker.check()
        alive[0] = False
        for _ in range(DEAD_LOOKS):
            await worker.check()
        with pytest.raises(RuntimeError, match="engine processes of this worker have ended"):
            await worker.check()

    asyncio.run(run())
