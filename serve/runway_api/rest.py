"""Requests of the API, each checked, worked on in a transaction of its own, and answered."""

import asyncio
import logging
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable
from typing import Any

from aiohttp import BodyPartReader, web
from pydantic import BaseModel
from sqlalchemy.orm import Session as Db

from serve.live.http.api import FOR_ANY_PAGE, HEADERS, allow_page
from serve.live.http.bodies import read_body
from serve.live.speech.tools import BackendPlace
from serve.runway_api.call import ApiError, Call, Desk, Stored, not_found
from serve.runway_api.guard import Guard, bearer, preflight, refusal
from serve.runway_api.routes import ROUTES, Route
from serve.runway_api.session_tools import SocketBackend
from serve.runway_api.uploads import SECRET_FIELD, receive
from serve.store.database import Store
from serve.store.files import read_file

log = logging.getLogger(__name__)

UPLOAD_S, SLOWEST_UPLOAD = 120.0, 250_000  # seconds until an upload's secret is known; bytes a second after that
ID_CHARS = 36


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
        async with asyncio.timeout(UPLOAD_S) as deadline:
            async for part in await request.multipart():
                if not isinstance(part, BodyPartReader):
                    continue
                if part.name == SECRET_FIELD:
                    secret = (await part.read_chunk(200)).decode(errors="replace")
                elif part.name == "file" and not there:
                    await receive(self.store, request.match_info["id"], secret, self._bounded(part, deadline))
                    there = True
        if not there:
            raise ApiError(400, "There must be a field named file.")
        return web.Response(status=204)

    async def _bounded(self, part: BodyPartReader, deadline: asyncio.Timeout) -> AsyncIterator[bytes]:
        """A file whose secret was right: it is given time by its size."""
        deadline.reschedule(asyncio.get_running_loop().time() + UPLOAD_S + self.upload_bytes / SLOWEST_UPLOAD)
        count = 0
        while piece := await part.read_chunk(65_536):
            count += len(piece)
            if count > self.upload_bytes:
                raise ApiError(413, f"An upload must have at most {self.upload_bytes / 1e6:g} MB.")
            yield piece

    async def _sent(self, request: web.Request, answer: Stored) -> web.StreamResponse:
        """The file, or the range that is asked for: without ranges Safari plays neither film nor sound."""
        try:
            part = request.http_range
        except ValueError:
            part = slice(None)  # what is not one range of bytes asks for the whole file (RFC 9110, 14.2)
        start, stop, _ = part.indices(answer.num_bytes)
        headers = HEADERS | FOR_ANY_PAGE | {"Accept-Ranges": "bytes"}
        response = web.StreamResponse(headers=headers)
        if part.start is not None:
            if start >= stop:
                error = {"error": f"The file has {answer.num_bytes} bytes, and none of this range."}
                headers["Content-Range"] = f"bytes */{answer.num_bytes}"
                return web.json_response(error, status=416, headers=headers)
            response.set_status(206)
            response.headers["Content-Range"] = f"bytes {start}-{stop - 1}/{answer.num_bytes}"
        response.content_type, response.content_length = answer.content_type, stop - start
        await response.prepare(request)
        async for piece in read_file(self.store, answer.file_id, start=start, stop=stop):
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


def _response(answer: BaseModel | None) -> web.Response:
    if answer is None:
        return web.Response(status=204)
    return web.Response(text=answer.model_dump_json(by_alias=True), content_type="application/json")
