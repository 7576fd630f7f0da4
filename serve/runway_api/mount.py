"""The API on a live server's port."""

import asyncio
import contextlib
import logging
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from aiohttp import BodyPartReader, web
from pydantic import BaseModel
from sqlalchemy import func, select
from sqlalchemy.orm import Session as Db

from serve.live.http.api import FOR_ANY_PAGE, HEADERS, Api, allow_page
from serve.live.http.bodies import read_body
from serve.live.room.door import Door
from serve.live.room.tokens import Tokens
from serve.live.speech.sentence_vectors import TextVectors, sentence_vectors
from serve.live.speech.tools import BackendPlace
from serve.live.speech.voice_servers import Speech
from serve.runway_api.background import Background
from serve.runway_api.call import ApiError, Binary, Call, Desk, Stored, not_found
from serve.runway_api.fetch import is_public
from serve.runway_api.film_work import FilmWork
from serve.runway_api.films import FilmOptions, MakeFilm
from serve.runway_api.guard import Guard, bearer, preflight, refusal
from serve.runway_api.meeting_bots import Bots, MeetingOptions
from serve.runway_api.openapi import openapi
from serve.runway_api.rooms import Rooms
from serve.runway_api.routes import ROUTES, Route
from serve.runway_api.session_tools import SocketBackend
from serve.runway_api.sessions import create
from serve.runway_api.uploads import SECRET_FIELD, receive
from serve.store.database import Store
from serve.store.files import read_file
from serve.store.keys import Limits, add_key
from serve.store.tables import ApiKey, new_id

log = logging.getLogger(__name__)

UPLOAD_S, SLOWEST_UPLOAD = 120.0, 250_000  # seconds that an upload has, and bytes a second of large ones
ID_CHARS = 36
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


class RestApi:
    """Handlers of all routes; `app` is mounted at /v1."""

    def __init__(
        self,
        store: Store,
        desk: Desk,
        *,
        url: str | None,
        visitor: Callable[[web.Request], str],
        places: Callable[[], int],
        changed: Callable[[], None],
        backend: Callable[[str], BackendPlace | None],
        upload_bytes: int,
        routes: Iterable[Route] = ROUTES,
    ) -> None:
        """visitor: the address of whoever asks. changed: called when the store has changed. backend: of a session that
        is open here, by its id."""
        self.store, self.desk, self.url, self.guard = store, desk, url, Guard(store)
        self.visitor, self.places, self.changed, self.backend = visitor, places, changed, backend
        self.upload_bytes = upload_bytes
        self._preparing, self._later = asyncio.Lock(), set[asyncio.Task[None]]()
        self.app = web.Application(middlewares=[self._refuse])
        for route in routes:
            self.app.router.add_route(route.method, route.path, self._handler(route))
        self.app.router.add_post("/uploads/{id}", self._receive)
        self.app.router.add_get("/realtime_sessions/{id}/backend", self._answer_calls)

    def _handler(self, route: Route) -> Callable[[web.Request], Any]:
        async def handle(request: web.Request) -> web.StreamResponse:
            key = await self.guard.key(route.access, request)
            self.guard.check_rate(key, self.visitor(request))
            _check_ids(request)
            data = await read_body(request, route.max_bytes)
            ids = dict(request.match_info)
            call = Call(
                self.desk,
                self._base_url(request),
                ids,
                bearer(request),
                key,
                self.places(),
                self.visitor(request),
                request.headers.get("Origin"),
            )
            given = dict(request.query)
            made = await self._prepared(route, call, data)
            answer = await self.store.run(lambda db: _work(db, route, call, given, data, *made), writes=route.writes)
            if route.writes:
                self.changed()
            for work in call.later:
                task = asyncio.create_task(_logged(work))
                self._later.add(task)  # or it may be collected before it is done
                task.add_done_callback(self._later.discard)
            if isinstance(answer, Stored):
                return await self._sent(request, answer)
            response = _response(answer)
            if route.access in ("page", "session"):
                allow_page(response, request)
            return response

        return handle

    async def _prepared(self, route: Route, call: Call, data: bytes) -> tuple[Any, ...]:
        """What the route makes before it holds the store; one after the other, as each takes a core."""
        if (prepare := route.prepare) is None:
            return ()
        async with self._preparing:
            return (await asyncio.to_thread(lambda: prepare(call, _body(route, data))),)

    @web.middleware
    async def _refuse(self, request: web.Request, handler: Any) -> web.StreamResponse:
        if request.method == "OPTIONS":
            return preflight(request)
        try:
            return await handler(request)
        except Exception as error:  # those that are no refusal are raised again
            response = refusal(error)
        if request.path.startswith(("/v1/realtime_sessions", "/v1/widget/")):
            allow_page(response, request)  # a page may read why
        return response

    async def _receive(self, request: web.Request) -> web.Response:
        """A file for an upload; its secret comes before it."""
        _check_ids(request)
        if not request.content_type.startswith("multipart/"):
            raise ApiError(400, "The file must be sent as multipart/form-data, with the fields of the upload.")
        secret, there = "", False
        async with asyncio.timeout(UPLOAD_S + self.upload_bytes / SLOWEST_UPLOAD):
            async for part in await request.multipart():
                if not isinstance(part, BodyPartReader):
                    continue
                if part.name == SECRET_FIELD:
                    secret = (await part.read_chunk(200)).decode(errors="replace")
                elif part.name == "file" and not there:
                    await receive(self.store, request.match_info["id"], secret, self._bounded(part))
                    there = True
        if not there:
            raise ApiError(400, "There must be a field named file.")
        return web.Response(status=204)

    async def _bounded(self, part: Any) -> AsyncIterator[bytes]:
        count = 0
        while piece := await part.read_chunk(65_536):
            count += len(piece)
            if count > self.upload_bytes:
                raise ApiError(413, f"An upload must have at most {self.upload_bytes / 1e6:g} MB.")
            yield piece

    async def _sent(self, request: web.Request, answer: Stored) -> web.StreamResponse:
        response = web.StreamResponse(headers=HEADERS | FOR_ANY_PAGE)
        response.content_type, response.content_length = answer.content_type, answer.num_bytes
        await response.prepare(request)
        async for piece in read_file(self.store, answer.file_id):
            await response.write(piece)
        await response.write_eof()
        return response

    async def _answer_calls(self, request: web.Request) -> web.StreamResponse:
        """A websocket of a program that answers backend_rpc tools of one session, which must be open here."""
        await self.guard.key("secret", request)
        backend = self.backend(request.match_info["id"])
        if backend is None:
            raise not_found("session that is READY or RUNNING on this server")
        return await SocketBackend().serve(request, backend)

    def _base_url(self, request: web.Request) -> str:
        return (self.url or f"{request.scheme}://{request.host}").rstrip("/")


async def _logged(work: Callable[[], Awaitable[None]]) -> None:
    try:
        await work()
    except ValueError as error:
        log.warning("%s", error)


def _work(db: Db, route: Route, call: Call, given: dict[str, str], data: bytes, *made: Any) -> Any:
    return route.work(db, call, route.query.model_validate(given), _body(route, data), *made)


def _body(route: Route, data: bytes) -> BaseModel | None:
    return None if route.body is None else route.body.model_validate_json(data or b"{}")


def _check_ids(request: web.Request) -> None:
    """What is no id is nobody's."""
    value = request.match_info.get("id")
    if value is not None and (len(value) != ID_CHARS or not value.replace("-", "").isalnum()):
        raise not_found("such thing")


def _response(answer: BaseModel | Binary | None) -> web.Response:
    if answer is None:
        return web.Response(status=204)
    if isinstance(answer, Binary):
        response = web.Response(body=answer.data, content_type=answer.content_type)
        response.headers["Cross-Origin-Resource-Policy"] = "cross-origin"  # pictures are shown on others' pages
        return response
    return web.Response(text=answer.model_dump_json(by_alias=True), content_type="application/json")


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
