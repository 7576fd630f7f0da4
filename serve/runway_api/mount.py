"""The API on a live server's port."""

import asyncio
import contextlib
import logging
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from aiohttp import web
from sqlalchemy import func, select
from sqlalchemy.orm import Session as Db

from serve.live.http.api import Api
from serve.live.room.door import Door
from serve.live.room.tokens import Tokens
from serve.live.speech.sentence_vectors import TextVectors, sentence_vectors
from serve.live.speech.voice_servers import Speech
from serve.runway_api.background import Background
from serve.runway_api.call import Desk
from serve.runway_api.fetch import is_public
from serve.runway_api.film_work import FilmWork
from serve.runway_api.films import FilmOptions, MakeFilm
from serve.runway_api.meeting_bots import Bots, MeetingOptions
from serve.runway_api.openapi import openapi
from serve.runway_api.rest import RestApi
from serve.runway_api.rooms import Rooms
from serve.runway_api.routes import ROUTES
from serve.runway_api.sessions import create
from serve.store.database import Store
from serve.store.keys import Limits, add_key
from serve.store.tables import ApiKey, new_id

log = logging.getLogger(__name__)

AGAIN_S = 1.0
FIRST_KEY = "first key"


@dataclass(frozen=True, slots=True, kw_only=True)
class ApiOptions:
    """What the API is started with.

    Raises:
        ValueError: a value that cannot be.
    """

    store: str | None  # URL of a database; None: there is no API
    public_url: str | None  # of this server, as clients see it; None: as they ask for it
    retention_days: int | None  # for conversations and films; None: until they are deleted
    meetings: MeetingOptions | None = None  # None: characters join none
    films: FilmOptions = field(default_factory=FilmOptions)

    @classmethod
    def of(cls, values: dict[str, Any]) -> "ApiOptions":
        """values: of the file; what is read is taken out."""
        parts = {"meetings": MeetingOptions.of(values.pop("meetings")), "films": FilmOptions(**values.pop("films"))}
        return cls(**{name: values.pop(name) for name in ("store", "public_url", "retention_days")}, **parts)

    def __post_init__(self) -> None:
        if self.retention_days is not None and self.retention_days < 1:
            raise ValueError(f"retention_days={self.retention_days} must be at least 1. Use null to keep everything.")
        if self.public_url is not None and not self.public_url.startswith(("http://", "https://")):
            raise ValueError(f"public_url={self.public_url!r} must be such as https://avatars.example.org.")


class Mounted(NamedTuple):
    """What is open while the API is mounted."""

    store: Store
    rooms: Rooms


@contextlib.asynccontextmanager
async def mounted(
    api: Api,
    speech: Speech,
    *,
    options: ApiOptions,
    make_film: MakeFilm,
    prints_first_key: bool,
    allows: Callable[[str], bool] = is_public,
    secret: bytes | None = None,
    make_vectors: Callable[[], TextVectors | None] = sentence_vectors,
) -> AsyncIterator[Mounted | None]:
    """Serve the API on `api.app`, as long as the context is open; without a store there is none.

    prints_first_key: make a key where there is none, and log it: where only people of this machine can read the log.
    secret: of a fleet, which signs its tokens and gives this server its sessions; None: this server is alone, and
        sessions are asked for here.
    make_vectors: of documents and questions; what it answers with None searches documents by their words alone.

    Raises:
        ValueError: the store cannot be opened.
    """
    if options.store is None:
        yield None
        return
    store = Store(options.store)
    if prints_first_key:
        await print_first_key(store)
    names = {key: character.name for key, character in api.characters.items()}
    tokens, vectors = Tokens(secret), await asyncio.to_thread(make_vectors)
    url = options.public_url if secret else None
    rooms = Rooms(store, api, tokens, owner=new_id(), url=url, vectors=vectors)
    meetings = options.meetings if secret is None else None  # a fleet's servers are not asked
    services, most = (meetings.services, meetings.max_open) if meetings else ({}, 0)
    desk = Desk(rooms.owner, names, speech, rooms.backend_room, make_film.refuses, frozenset(services), most)
    bots = Bots(store, services, owner=rooms.owner)
    films = FilmWork(store, api, desk, make_film=make_film, options=options.films, allows=allows)
    days = options.retention_days
    work = Background(store, api, desk, films=films, retention_days=days, allows=allows, vectors=vectors)

    def changed() -> None:
        for event in (rooms.wake, work.wake, work.wake_films, work.wake_documents, bots.wake):
            event.set()

    rest = RestApi(
        store,
        desk,
        url=options.public_url,
        visitor=api.visitor,
        places=lambda: api.admission.capacity,
        changed=changed,
        backend=rooms.backend,
        upload_bytes=options.films.max_bytes,
        routes=[route for route in ROUTES if secret is None or route.work is not create],
    )
    api.app.add_subapp("/v1", rest.app)
    api.app.add_subapp("/rtc", Door(api.admission, tokens).app)
    api.app.router.add_get("/openapi.json", _document)
    try:
        async with _running([rooms, work, bots] if services else [rooms, work]):
            yield Mounted(store, rooms)
    finally:
        await rooms.finish()
        store.close()
        if vectors is not None:
            vectors.close()


@contextlib.asynccontextmanager
async def _running(parts: list[Rooms | Background | Bots]) -> AsyncIterator[None]:
    tasks = [asyncio.create_task(_kept_running(each)) for each in parts]
    try:
        yield
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


async def _kept_running(work: Rooms | Background | Bots) -> None:
    """A store that does not answer for a moment must not end what everybody waits for."""
    while True:
        try:
            await work.run()
        except* Exception:
            log.exception("%s failed and is started again", type(work).__name__)
            await asyncio.sleep(AGAIN_S)


async def _document(request: web.Request) -> web.Response:
    return web.json_response(await asyncio.to_thread(openapi))  # the first time it takes as long as a chunk of sound


async def print_first_key(store: Store) -> None:
    """Make a key where there is none, and log it."""
    if text := await store.run(_first_key):
        log.info("API key, shown once: %s", text)


def _first_key(db: Db) -> str | None:
    if db.scalar(select(func.count()).select_from(ApiKey)):
        return None
    return add_key(db, FIRST_KEY, Limits(origins=[]))
