"""The fleet's address: REST, keys, and the queue; whoever is let in connects to a worker."""

import asyncio
import contextlib
import logging
import secrets
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any, Protocol

from aiohttp import web
from sqlalchemy import select, update
from sqlalchemy.orm import Session as Db

from gwm.contract import Contract
from serve.artifact import read_manifest
from serve.fleet.options import OWNER, FleetOptions
from serve.live.avatar.voice_buffers import Sound
from serve.live.characters import read_characters
from serve.live.http.admission import place_of
from serve.live.http.port import bound_sockets, encryption, listening
from serve.live.http.traced import tracing
from serve.live.room.tokens import Tokens
from serve.live.speech.voice_servers import Speech, voice_server
from serve.live.traces import Traces
from serve.runway_api.call import Desk
from serve.runway_api.films import Generator
from serve.runway_api.mount import ApiOptions, print_first_key
from serve.runway_api.rest import RestApi
from serve.runway_api.rooms import NO_ROOM, set_queued
from serve.runway_api.session_queue import SEEN, SessionQueue
from serve.runway_api.sessions import end, without_token
from serve.settings import ServerSettings
from serve.store.database import Store
from serve.store.owners import LIVE, give_up_lost_sessions, stay_alive
from serve.store.tables import Session, now_ms

log = logging.getLogger(__name__)

LOOK_S, LIFE_S, GONE_MS = 0.5, 5.0, 15_000  # a gateway that gives no sign of life for so long has gone
ASKING = 8  # leases that wait for a worker at a time: autoscaling sees them
LOST = "The machine that held this session is gone."


class LeaseStream(Protocol):
    """What `Worker.hold` gives, from afar; such as Ray Serve's `DeploymentResponseGenerator`."""

    def __aiter__(self) -> AsyncIterator[dict[str, Any]]: ...

    def cancel(self) -> None:
        """Nobody waits for it any more."""
        ...


Lease = Callable[[str], LeaseStream]  # from a session's id


class Gateway:
    """`start` it with what opens leases; `stop` it. It keeps nothing that is not in the store, but its leases. Several
    share a store: each goes on with the queue of one that has stopped, or is silent."""

    def __init__(self, settings: ServerSettings, fleet: FleetOptions, api: ApiOptions, secret: bytes) -> None:
        self.settings, self.fleet, self.options = settings, fleet, api
        self.owner, self.tokens = f"{OWNER}-{secrets.token_hex(8)}", Tokens(secret)
        self.places: dict[str, dict[str, Any]] = {}  # of sessions that a worker has opened, by id
        self._leases: dict[str, asyncio.Task[None]] = {}
        self._open = contextlib.AsyncExitStack()
        self._wake = asyncio.Event()

    async def start(self, lease: Lease) -> None:
        """Listen, and let in whoever waits.

        Raises:
            ValueError: the port is taken, or certificate or store cannot be opened.
        """
        assert self.options.store is not None
        self.lease, options = lease, self.settings.options
        sockets = bound_sockets(options.host, options.port, shared=self.fleet.gateways > 1)
        tls = encryption(options.certificate)
        for each in sockets:
            self._open.callback(each.close)
        self.store = Store(self.options.store)
        self._open.callback(self.store.close)
        await print_first_key(self.store)
        contract = Contract.from_json(read_manifest(Path(options.artifact))["contract"])
        characters = read_characters(Path(options.characters), contract.framing(options.size))
        speech = Speech(options.tts, _speaks_nothing, voice_server(options.tts, self.settings.endpoints["tts"]))
        names = {key: one.name for key, one in characters.items()}
        films = Generator(options.artifact, options.characters, options.size, self.options.films)  # workers make them
        desk = Desk(self.owner, names, speech, self._backend_room, films.refuses)
        rest = RestApi(
            self.store,
            desk,
            url=self.options.public_url,
            visitor=lambda request: place_of(request.remote or ""),
            places=lambda: self.fleet.places * (self.fleet.max_workers or self.fleet.workers),
            changed=self._wake.set,
            backend=lambda session_id: None,  # it is at the session's worker
            upload_bytes=self.options.films.max_bytes,
        )
        if traces := Traces.to(options.trace):
            self._open.push_async_callback(asyncio.to_thread, traces.close)
        app = web.Application(middlewares=tracing(traces))
        app.router.add_get("/health", _health)
        app.add_subapp("/v1", rest.app)
        await self._open.enter_async_context(listening(app, sockets, tls))
        self.queue = SessionQueue(self._let_in, give_up=self._give_up, tell=self._tell, now_ms=now_ms)
        self._tasks = [asyncio.create_task(work) for work in (self._serve(), self._live())]

    async def stop(self) -> None:
        """Sessions go on at their workers; those that wait are the next gateway's."""
        for task in (*self._tasks, *self._leases.values()):
            task.cancel()
        await asyncio.gather(*self._tasks, *self._leases.values(), return_exceptions=True)
        await self.store.run(self._let_go)
        await self._open.aclose()

    async def _serve(self) -> None:
        while True:
            waiting = await self.store.run(self._waiting, writes=False)
            ids = {row.id for row in waiting}
            for session_id, task in list(self._leases.items()):
                if session_id not in ids and session_id not in self.places and not await self._is_held(session_id):
                    task.cancel()  # given up or ended while it waited
            await self.queue.go_on(waiting)
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._wake.wait(), LOOK_S)
            self._wake.clear()

    async def _live(self) -> None:
        while True:
            await self.store.run(lambda db: stay_alive(db, self.owner))
            await self.store.run(self._adopt)
            await self.store.run(give_up_lost_sessions)
            await asyncio.sleep(LIFE_S)

    def _let_go(self, db: Db) -> None:
        waiting = update(Session).where(Session.owner == self.owner, Session.status == "NOT_READY")
        db.execute(waiting.values(owner=OWNER, alive_ms=now_ms()))

    def _adopt(self, db: Db) -> None:
        """Go on with what waits and no gateway has, or one that says nothing any more."""
        silent = Session.owner.startswith(f"{OWNER}-") & (Session.alive_ms < now_ms() - GONE_MS)
        waiting = update(Session).where(Session.status == "NOT_READY", (Session.owner == OWNER) | silent)
        db.execute(waiting.values(owner=self.owner, alive_ms=now_ms()))

    def _waiting(self, db: Db) -> list[Session]:
        line = (Session.owner == self.owner) & (Session.status == "NOT_READY")
        return list(db.scalars(select(Session).where(line).order_by(Session.created_ms).limit(SEEN)))

    async def _is_held(self, session_id: str) -> bool:
        row = await self.store.run(lambda db: db.get(Session, session_id), writes=False)
        return row is not None and row.status in LIVE

    async def _let_in(self, row: Session) -> bool:
        """Ask for a lease; the session waits on while no worker has a place."""
        if row.id in self._leases:
            return True
        if sum(each not in self.places for each in self._leases) >= ASKING:
            return False
        task = self._leases[row.id] = asyncio.create_task(self._hold(row.id))
        task.add_done_callback(lambda _: self._ended(row.id))
        await asyncio.wait([task], timeout=LOOK_S)  # long enough for a free place
        return row.id in self.places or row.id not in self._leases

    async def _hold(self, session_id: str) -> None:
        """The life of a lease."""
        stream = self.lease(session_id)
        try:
            async for place in stream:
                self.places[session_id] = place
                self._wake.set()
            await self.store.run(lambda db: self._take_back(db, session_id))
        except asyncio.CancelledError:
            if session_id not in self.places:
                stream.cancel()
            raise
        except Exception as error:  # of many kinds: the worker, its node or the way there is gone
            log.warning("lease of session %s is lost: %s", session_id, type(error).__name__)
            await self.store.run(lambda db: self._lost(db, session_id))

    def _take_back(self, db: Db, session_id: str) -> None:
        """One that a worker has given back, as it must go."""
        row = db.get(Session, session_id, with_for_update=True)
        if row is not None and row.status == "NOT_READY" and row.owner == OWNER:
            row.owner, row.alive_ms = self.owner, now_ms()

    def _lost(self, db: Db, session_id: str) -> None:
        """One that nobody has opened yet is placed anew; one that was open has failed."""
        row = db.get(Session, session_id, with_for_update=True)
        if row is None or row.status not in LIVE:
            return
        if row.status == "NOT_READY":
            row.owner, row.alive_ms = self.owner, now_ms()
        else:
            end(row, status="FAILED", failure=LOST, failure_code="SERVER.STOPPED")

    def _ended(self, session_id: str) -> None:
        self._leases.pop(session_id, None)
        self.places.pop(session_id, None)
        self._wake.set()

    async def _give_up(self, row: Session) -> None:
        def give_up(db: Db) -> None:
            found = db.get(Session, row.id, with_for_update=True)
            if found is not None and found.status == "NOT_READY":
                end(found, status="FAILED", failure=NO_ROOM, failure_code="CAPACITY")

        await self.store.run(give_up)

    async def _tell(self) -> None:
        await self.store.run(lambda db: set_queued(db, self.owner))

    def _backend_room(self, row: Session) -> dict[str, str] | None:
        """Whichever gateway has its lease."""
        place = without_token(row.room)
        if not place:
            return None
        seconds = self.settings.timeouts.connect_s + self.settings.timeouts.session_s
        return place | {"token": self.tokens.sign(place["room_name"], hidden=True, seconds=seconds)}


def _speaks_nothing(voice: dict[str, Any], text: str) -> tuple[Sound, int]:
    raise ValueError("The gateway of a fleet has no voices, so that it speaks no preview. Ask one of its workers.")


async def _health(request: web.Request) -> web.Response:
    return web.json_response({"status": "alive"})
