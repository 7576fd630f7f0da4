"""The gateway without Ray: its workers are a stream that the test opens, breaks and ends."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from serve.fleet.gateway import ASKING, GONE_MS, LOST, Gateway
from serve.fleet.options import OWNER
from serve.live.room.tokens import Tokens
from serve.runway_api.session_queue import SessionQueue
from serve.runway_api.sessions import without_token
from serve.store.database import Store
from serve.store.tables import Session, now_ms


class Stream:
    """A lease as Ray gives it."""

    def __init__(self, items: AsyncIterator[dict[str, Any]], cancel: Callable[[], None]) -> None:
        self.items, self.cancel = items, cancel

    def __aiter__(self) -> AsyncIterator[dict[str, Any]]:
        return self.items


class Workers:
    """Lets sessions in while there is a place, and sets them READY as a worker does."""

    def __init__(self, store: Store, places: int) -> None:
        self.store, self.places = store, places
        self.ends: dict[str, asyncio.Event] = {}
        self.breaks: set[str] = set()
        self.cancelled: list[str] = []

    def lease(self, session_id: str) -> "Stream":
        return Stream(self.hold(session_id), lambda: self.cancelled.append(session_id))

    async def hold(self, session_id: str) -> AsyncIterator[dict[str, Any]]:
        while len(self.ends) >= self.places:
            await asyncio.sleep(0.01)
        self.ends[session_id] = asyncio.Event()
        self.store.do(lambda db: _set(db, session_id, "READY", "worker"))
        yield {"url": "http://worker", "room_name": "room"}
        await self.ends[session_id].wait()
        del self.ends[session_id]
        if session_id in self.breaks:
            raise ConnectionError("the node is gone")


def _set(db, session_id: str, status: str, owner: str) -> None:
    row = db.get(Session, session_id)
    row.status, row.owner = status, owner


def status(store: Store, session_id: str) -> Session:
    return store.do(lambda db: db.get_one(Session, session_id), writes=False)


async def until(holds) -> None:
    async with asyncio.timeout(30):
        while not holds():
            await asyncio.sleep(0.02)


def bare(store: Store, workers: Workers) -> Gateway:
    """One without a port."""
    gateway = Gateway.__new__(Gateway)
    gateway.store, gateway.owner, gateway.lease = store, OWNER, workers.lease
    gateway.places, gateway._leases, gateway._wake = {}, {}, asyncio.Event()
    gateway.queue = SessionQueue(gateway._let_in, give_up=gateway._give_up, tell=gateway._tell, now_ms=now_ms)
    return gateway


@contextlib.asynccontextmanager
async def serving(gateway: Gateway) -> AsyncIterator[Gateway]:
    """One whose queue goes on meanwhile, and which then stops."""
    queue = asyncio.create_task(gateway._serve())
    try:
        yield gateway
    finally:
        tasks = [queue, *gateway._leases.values()]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


def ask(store: Store, name: str, **more: Any) -> str:
    row = Session(id=name, status="NOT_READY", owner=OWNER, avatar_name="Noa", tools=[], max_s=60, **more)
    store.do(lambda db: db.add(row))
    return name


def test_sessions_wait_are_let_in_in_turn_and_fail_with_their_worker(tmp_path: Path):
    async def run() -> None:
        store = Store(f"sqlite:///{tmp_path}/gwm.sqlite")
        workers = Workers(store, places=1)
        async with serving(bare(store, workers)) as gateway:
            first = ask(store, "first")
            await until(lambda: status(store, first).status == "READY")
            second = ask(store, "second")
            await until(lambda: status(store, second).queued)  # its client knows that it waits
            workers.breaks.add(first)
            workers.ends[first].set()
            await until(lambda: status(store, first).status == "FAILED")
            assert status(store, first).failure == LOST
            await until(lambda: status(store, second).status == "READY")
            await until(lambda: set(gateway.places) == {second})
            store.do(lambda db: _set(db, second, "COMPLETED", "worker"))
            workers.ends[second].set()
            await until(lambda: not gateway._leases)
            assert status(store, second).status == "COMPLETED"
        store.close()

    asyncio.run(run())


def test_whoever_gives_up_while_it_waits_asks_no_worker_any_more_and_a_new_gateway_goes_on_with_the_queue(
    tmp_path: Path,
):
    async def run() -> None:
        store = Store(f"sqlite:///{tmp_path}/gwm.sqlite")
        workers = Workers(store, places=0)
        async with serving(bare(store, workers)) as gateway:
            first, second = ask(store, "first"), ask(store, "second")
            await until(lambda: set(gateway._leases) == {first, second})
            store.do(lambda db: _set(db, first, "CANCELLED", OWNER))
            await until(lambda: workers.cancelled == [first])
        assert set(workers.cancelled) == {first, second}
        workers.places = 1
        async with serving(bare(store, workers)):
            await until(lambda: status(store, second).status == "READY")
        assert status(store, first).status == "CANCELLED"
        store.close()

    asyncio.run(run())


def test_only_so_many_ask_at_a_time_and_they_are_the_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Workers see those as their load; clients of the others see that they wait, and they are asked for in turn."""
    monkeypatch.setattr("serve.fleet.gateway.LOOK_S", 0.02)

    async def run() -> None:
        store = Store(f"sqlite:///{tmp_path}/gwm.sqlite")
        workers = Workers(store, places=0)
        names = [f"{number:02}" for number in range(ASKING + 3)]
        for position, name in enumerate(names):
            ask(store, name, created_ms=now_ms() + position)
        async with serving(bare(store, workers)) as gateway:
            await until(lambda: all(status(store, name).queued for name in names))
            await asyncio.sleep(0.5)  # many looks
            assert sorted(gateway._leases) == names[:ASKING]
            workers.places = 2
            await until(lambda: set(names[ASKING : ASKING + 2]) <= set(gateway._leases))
            assert set(workers.ends) <= set(names[:ASKING]) and names[-1] not in gateway._leases
        store.close()

    asyncio.run(run())


def test_a_session_that_a_worker_gives_back_is_asked_for_again(tmp_path: Path):
    """Such as by one that begins to drain."""

    class Leaving(Workers):
        left = 0

        async def hold(self, session_id: str) -> AsyncIterator[dict[str, Any]]:
            if self.left < 2:
                self.left += 1
                self.store.do(lambda db: _set(db, session_id, "NOT_READY", OWNER))
                return
            async for place in super().hold(session_id):
                yield place

    async def run() -> None:
        store = Store(f"sqlite:///{tmp_path}/gwm.sqlite")
        workers = Leaving(store, places=1)
        gateway = bare(store, workers)
        gateway.owner = f"{OWNER}-a"
        name = ask(store, "first")
        store.do(lambda db: _set(db, name, "NOT_READY", gateway.owner))
        async with serving(gateway):
            await until(lambda: status(store, name).status == "READY")
            assert workers.left == 2
        store.close()

    asyncio.run(run())


def test_gateways_that_share_a_store_go_on_with_the_queue_of_one_that_has_gone(tmp_path: Path):
    """And leave alone what another one has, or a worker."""
    store = Store(f"sqlite:///{tmp_path}/gwm.sqlite")
    one, other = (bare(store, Workers(store, places=0)) for _ in range(2))
    one.owner, other.owner = f"{OWNER}-one", f"{OWNER}-other"
    owners = {"mine": one.owner, "lively": other.owner, "silent": other.owner, "nobodys": OWNER, "a worker's": "worker"}
    for name, owner in owners.items():
        silent_ms = GONE_MS + 1_000 if name in ("silent", "a worker's") else GONE_MS - 5_000
        ask(store, name, alive_ms=now_ms() - silent_ms)
        store.do(lambda db, name=name, owner=owner: _set(db, name, "NOT_READY", owner))
    store.do(one._adopt)
    found = {name: status(store, name).owner for name in owners}
    assert found == owners | {"silent": one.owner, "nobodys": one.owner}
    store.do(one._let_go)
    assert [name for name in owners if status(store, name).owner == OWNER] == ["mine", "silent", "nobodys"]
    store.do(other._adopt)
    assert {row.id for row in store.do(other._waiting, writes=False)} == set(owners) - {"a worker's"}
    assert now_ms() - status(store, "silent").alive_ms < GONE_MS
    store.close()


def test_every_gateway_says_where_a_backend_joins_a_session_and_none_before_it_is_open(tmp_path: Path):
    tokens = Tokens(b"s" * 32)
    gateway: Any = Gateway.__new__(Gateway)
    gateway.tokens, gateway.settings = tokens, SimpleNamespace(timeouts=SimpleNamespace(connect_s=1.0, session_s=9.0))
    row = Session(room={"url": "http://worker", "room_name": "room", "token": "the visitor's"})
    for _ in range(2):
        found = gateway._backend_room(row)
        assert {name: found[name] for name in ("url", "room_name")} == {"url": "http://worker", "room_name": "room"}
        assert tokens.read(found["token"]).hidden
        row.room = without_token(row.room)  # the visitor has consumed it
        assert "token" not in row.room
    row.room = {}
    assert gateway._backend_room(row) is None


def test_a_lost_lease_fails_what_was_open_places_anew_what_was_not_and_leaves_what_has_ended(tmp_path: Path):
    store = Store(f"sqlite:///{tmp_path}/gwm.sqlite")
    gateway = bare(store, Workers(store, places=0))
    found = {}
    for before in ("NOT_READY", "READY", "COMPLETED"):
        name = ask(store, before)
        store.do(lambda db, name=name, before=before: _set(db, name, before, "worker"))
        store.do(lambda db, name=name: gateway._lost(db, name))
        row = status(store, name)
        found[before] = row.status, row.owner
    store.close()
    assert found["NOT_READY"] == ("NOT_READY", OWNER)
    assert found["READY"][0] == "FAILED" and found["COMPLETED"] == ("COMPLETED", "worker")
