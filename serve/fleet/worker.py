"""One device's server, and the leases of its sessions."""

import asyncio
import contextlib
import logging
from collections.abc import AsyncIterator
from dataclasses import replace
from functools import partial
from typing import Any
from urllib.parse import urlsplit

from sqlalchemy.orm import Session as Db

from serve.fleet.options import OWNER, FleetOptions
from serve.live.http.api import Api
from serve.live.http.port import bound_sockets, encryption, listening
from serve.live.http.server import running_app
from serve.live.speech.voice_servers import Speech
from serve.runway_api.films import Generator
from serve.runway_api.mount import ApiOptions, Mounted, mounted
from serve.settings import ServerSettings
from serve.store.owners import LIVE
from serve.store.tables import Session, now_ms

log = logging.getLogger(__name__)

LOOK_S = 0.5  # between two looks at what became of a leased session
DEAD_LOOKS = 10  # that find no engine process alive, one after the other, until the worker counts as ill


class Worker:
    """`start` it, `hold` sessions, `stop` it. Clients connect to the server's own port: no media comes by here."""

    def __init__(self, settings: ServerSettings, fleet: FleetOptions, api: ApiOptions, secret: bytes) -> None:
        """secret: signs the tokens of all workers."""
        self.settings, self.fleet, self.api, self.secret = settings, fleet, api, secret
        self._open = contextlib.AsyncExitStack()
        self._mounted: Mounted | None = None
        self._server: Api | None = None
        self._dead_looks = 0
        self._draining: asyncio.Task[None] | None = None

    async def start(self, ip: str) -> None:
        """Load everything and listen. ip: of this node.

        Raises:
            ValueError, FileNotFoundError, FaceLostError: as `serve_until_signal`.
        """
        tls = encryption(self.settings.options.certificate)
        sockets = bound_sockets(self.fleet.worker_host, self.fleet.worker_port)
        for each in sockets:
            self._open.callback(each.close)
        self.url = self.fleet.url_of(self.settings.options.scheme, ip, sockets[0].getsockname()[1])
        name = urlsplit(self.url).hostname or ip
        options = replace(self.settings.options, hosts=[*self.settings.options.hosts, ip, name])
        parts = {"timeouts": self.settings.timeouts, "turn_taking": self.settings.turn_taking}
        app = running_app(options, **parts, endpoints=self.settings.endpoints, mount=self._mount)
        self._server = await self._open.enter_async_context(app)
        await self._open.enter_async_context(listening(self._server.app, sockets, tls))
        log.info("worker of %d places: %s", self._server.admission.capacity, self.url)

    @contextlib.asynccontextmanager
    async def _mount(self, server: Api, speech: Speech) -> AsyncIterator[None]:
        options = self.settings.options
        make = Generator(options.artifact, options.characters, options.size, self.api.films)
        api = replace(self.api, public_url=self.url)
        mount = partial(mounted, options=api, make_film=make, prints_first_key=False, secret=self.secret)
        async with mount(server, speech) as self._mounted:
            yield

    async def hold(self, session_id: str) -> AsyncIterator[dict[str, Any]]:
        """A lease: the session is this worker's, and the stream lasts as long as it does. The first item, when it is
        open, says where. Nothing comes where this worker drains before that: it is to be asked for again."""
        assert self._mounted is not None
        store, rooms = self._mounted
        if self._draining is not None:
            return
        if not await store.run(lambda db: _take(db, session_id, rooms.owner)):
            return  # ended, or somebody else's
        rooms.wake.set()
        announced = False
        while await store.run(lambda db: _is_live(db, session_id, rooms.owner), writes=False):
            session = rooms.open.get(session_id)
            if session is not None and not announced:
                announced = True
                yield {"url": self.url, "room_name": session.id}
            if session is None and self._draining is not None:  # it will not be opened here any more
                await store.run(lambda db: _give_back(db, session_id, rooms.owner))
                return
            await asyncio.sleep(LOOK_S)

    async def check(self) -> None:
        """
        Raises:
            RuntimeError: no engine process has run for a while, so that nobody can be served here.
        """
        assert self._server is not None
        families = (family for family in self._server.gauges.registry.collect() if family.name == "gwm_engine_up")
        alive = any(sample.value for family in families for sample in family.samples)
        self._dead_looks = 0 if alive else self._dead_looks + 1
        if self._dead_looks > DEAD_LOOKS:
            raise RuntimeError("the engine processes of this worker have ended and are not started anew.")

    def drain(self, within_s: float) -> None:
        """Take no sessions from now on; those that are here have so long to end. A second call changes nothing."""
        if self._draining is None and self._server is not None:
            log.info("draining: nobody new is let in, sessions have %.0f s to end", within_s)
            self._server.admission.draining = True  # at once: what is not open now is given back
            self._draining = asyncio.create_task(self._server.admission.drain(within_s=within_s))

    async def stop(self) -> None:
        """Drain, and end everything."""
        self.drain(self.fleet.drain_s)
        if self._draining is not None:
            await self._draining
        await self._open.aclose()


def _take(db: Db, session_id: str, owner: str) -> bool:
    session = db.get(Session, session_id, with_for_update=True)
    if session is None or session.status != "NOT_READY":
        return False
    session.owner, session.alive_ms = owner, now_ms()
    return True


def _give_back(db: Db, session_id: str, owner: str) -> None:
    session = db.get(Session, session_id, with_for_update=True)
    if session is not None and session.owner == owner and session.status == "NOT_READY":
        session.owner, session.alive_ms = OWNER, now_ms()


def _is_live(db: Db, session_id: str, owner: str) -> bool:
    session = db.get(Session, session_id)
    return session is not None and session.owner == owner and session.status in LIVE
