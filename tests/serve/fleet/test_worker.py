"""A worker without Ray: what becomes of its sessions when it has to go."""

import asyncio
from types import SimpleNamespace
from typing import Any

from serve.fleet.worker import Worker
from serve.live.gauges import Gauges
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


def test_a_worker_that_drains_takes_no_session_and_its_own_have_time_to_end(tmp_path):
    async def run() -> None:
        store = Store(f"sqlite:///{tmp_path}/gwm.sqlite")
        places = Admission(capacity=lambda: 2, retry_after_s=30, gauges=Gauges())
        worker = bare(store, places)
        visits = [places.open(Visit, name) for name in ("short", "long")]
        worker.drain(60.0)
        await asyncio.sleep(0)
        assert places.draining and not places.free and len(places.sessions) == 2
        row = Session(id="new", status="NOT_READY", owner="gateway", avatar_name="Noa", tools=[], max_s=60)
        store.do(lambda db: db.add(row))
        assert [place async for place in worker.hold("new")] == []
        kept = store.do(lambda db: db.get_one(Session, "new"), writes=False)
        assert (kept.status, kept.owner) == ("NOT_READY", "gateway")  # another worker's, then
        await visits[0].close("left")
        worker.drain(0.0)  # changes nothing
        await asyncio.sleep(0.3)
        assert list(places.sessions.values()) == [visits[1]]
        await visits[1].close("left")
        await worker.stop()
        store.close()

    asyncio.run(run())


def test_sessions_that_do_not_end_in_time_are_ended(tmp_path):
    async def run() -> str:
        store = Store(f"sqlite:///{tmp_path}/gwm.sqlite")
        places = Admission(capacity=lambda: 2, retry_after_s=30, gauges=Gauges())
        worker = bare(store, places)
        visit = places.open(Visit, "long")
        await worker.stop()
        store.close()
        return visit.reason

    assert asyncio.run(run()) == RESTARTS
