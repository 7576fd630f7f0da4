"""The HTTP side: pages, characters, uploads, sessions, and what operators look at."""

import asyncio
import json
import logging
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from aiohttp import web
from prometheus_client import generate_latest

from serve.live.characters import UPLOAD_BYTES, Character, Uploads, decode_upload, portrait_of, to_png
from serve.live.gauges import Gauges
from serve.live.guest import Guest
from serve.live.lobby import Lobby, Rate
from serve.live.refusals import FullError, NotHereError, WrongKeyError
from serve.live.renderer import Renderer
from serve.live.session import Session

log = logging.getLogger(__name__)

WEB = Path(__file__).parent / "web"
PAGES = {"/": "index.html"} | {
    f"/{name}": name for name in ("app.js", "choosing.js", "page.js", "style.css", "icon.svg")
}
SDP_BYTES = 64_000
# Nothing may come from, or go to, another host.
HEADERS = {
    "Content-Security-Policy": "default-src 'self'; img-src 'self' blob:; media-src 'self' blob:; connect-src 'self'; "
    "frame-ancestors 'none'; base-uri 'none'; form-action 'none'",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Permissions-Policy": "microphone=(self), camera=(self)",
    "Cache-Control": "no-cache",
}
# From an id, a character, and what to call at the end.
MakeSession = Callable[[str, Character, Callable[[], None]], Session]
MakeRenderer = Callable[[str, Character, Callable[[], None]], Renderer]
Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


class Api:
    """Handlers of one server; `app` is what aiohttp runs."""

    def __init__(
        self,
        lobby: Lobby,
        characters: dict[str, Character],
        *,
        make_session: MakeSession,
        make_renderer: MakeRenderer,
        resolution: int,
        hosts: set[str],
        origins: set[str],
        requests_per_minute: int,
        gauges: Gauges,
    ) -> None:
        self.lobby, self.characters, self.resolution, self.gauges = lobby, characters, resolution, gauges
        self.make_session, self.make_renderer = make_session, make_renderer
        self.hosts, self.origins = hosts, origins
        self.uploads, self.rate = Uploads(), Rate(requests_per_minute, 60.0)
        self.app = web.Application(middlewares=[self._guard], client_max_size=UPLOAD_BYTES + 1)
        self.app.router.add_routes(
            [
                *(web.get(path, self.page) for path in PAGES),
                web.get("/v1/characters", self.list_characters),
                web.get("/v1/characters/{key}/image", self.character_image),
                web.post("/v1/images", self.upload),
                web.get("/v1/images/{key}", self.uploaded_image),
                web.post("/v1/realtime_sessions", self.open_session),
                web.post("/v1/realtime_sessions/{id}/offer", self.connect),
                web.get("/v1/realtime_sessions/{id}/renderer", self.render),
                web.delete("/v1/realtime_sessions/{id}", self.end_session),
                web.get("/health", self.health),
                web.get("/ready", self.ready),
                web.get("/metrics", self.metrics),
            ]
        )

    async def page(self, request: web.Request) -> web.StreamResponse:
        return web.FileResponse(WEB / PAGES[request.path])

    async def list_characters(self, request: web.Request) -> web.Response:
        entries = [
            {"key": character.key, "name": character.name, "image": f"/v1/characters/{character.key}/image"}
            for character in self.characters.values()
        ]
        return web.json_response({"characters": entries})

    async def character_image(self, request: web.Request) -> web.Response:
        return _png(self._character(request.match_info["key"]).portrait)

    async def upload(self, request: web.Request) -> web.Response:
        self.rate.check(request.remote or "")
        data = await request.read()
        portrait, found = await asyncio.to_thread(lambda: portrait_of(decode_upload(data), self.resolution))
        key = self.uploads.add(portrait)
        note = None if found else "No face was found, so the middle of the picture is used."
        return web.json_response({"key": key, "image": f"/v1/images/{key}", "note": note})

    async def uploaded_image(self, request: web.Request) -> web.Response:
        return _png(self.uploads.get(request.match_info["key"]))

    async def open_session(self, request: web.Request) -> web.Response:
        self.rate.check(request.remote or "")
        wish = await _json(request)
        character = self._character(str(wish.get("character", next(iter(self.characters)))))
        if image := wish.get("image"):
            character = character.with_portrait(self.uploads.get(str(image)))
        make = self.make_renderer if wish.get("mode") == "renderer" else self.make_session
        session = self.lobby.open(lambda session_id, on_end: make(session_id, character, on_end))
        return web.json_response({"id": session.id, "status": "READY", "session_key": session.key.value}, status=201)

    async def connect(self, request: web.Request) -> web.Response:
        session = self.lobby.get(request.match_info["id"], Session)
        offer = await _json(request)
        if not isinstance(offer.get("sdp"), str):
            raise ValueError("sdp must be a string: the browser's offer.")
        answer, key = await session.connect(_bearer(request), offer["sdp"])
        return web.json_response({"type": "answer", "sdp": answer, "session_key": key})

    async def end_session(self, request: web.Request) -> web.Response:
        session = self.lobby.get(request.match_info["id"], Guest)
        session.key.check(_bearer(request))
        await session.close("You have left.")
        return web.Response(status=204)

    async def render(self, request: web.Request) -> web.WebSocketResponse:
        return await self.lobby.get(request.match_info["id"], Renderer).serve(_bearer(request), request)

    async def health(self, request: web.Request) -> web.Response:
        return web.json_response({"status": "alive"})

    async def ready(self, request: web.Request) -> web.Response:
        free = 0 if self.lobby.draining else self.lobby.capacity - len(self.lobby.sessions)
        return web.json_response({"free": free, "capacity": self.lobby.capacity}, status=200 if free > 0 else 503)

    async def metrics(self, request: web.Request) -> web.Response:
        return web.Response(body=generate_latest(self.gauges.registry), content_type="text/plain", charset="utf-8")

    def _character(self, key: str) -> Character:
        if key not in self.characters:
            raise NotHereError(f"There is no character of this name. There are: {', '.join(self.characters)}.")
        return self.characters[key]

    @web.middleware
    async def _guard(self, request: web.Request, handler: Handler) -> web.StreamResponse:
        """Refuse foreign pages, and turn every known error into JSON with a message for a person."""
        try:
            self._check_origin(request)
            response = await handler(request)
        except FullError as error:
            self.gauges.refused.labels("full").inc()
            response = _error(429, str(error), {"Retry-After": str(error.retry_after_s)})
        except WrongKeyError as error:
            response = _error(403, str(error))
        except NotHereError as error:
            response = _error(404, str(error))
        except ValueError as error:
            response = _error(400, str(error))
        except web.HTTPRequestEntityTooLarge:
            response = _error(413, f"At most {UPLOAD_BYTES // 10**6} MB can be sent.")
        except web.HTTPException as error:
            response = _error(error.status, error.reason)
        if not response.prepared:  # a websocket has ended by now
            response.headers.update(HEADERS)
        return response

    def _check_origin(self, request: web.Request) -> None:
        """A page of another site must not reach a server on its visitor's own machine, by whatever name."""
        host = urlsplit(f"//{request.host}").hostname
        if "*" not in self.hosts and host not in self.hosts:
            raise WrongKeyError(f"host {host} is not served here. Add it to hosts in the configuration.")
        origin = request.headers.get("Origin")
        if origin and origin not in self.origins and urlsplit(origin).netloc != request.host:
            raise WrongKeyError(f"origin {origin} is not allowed. Add it to origins in the configuration.")


def _png(portrait: Any) -> web.Response:
    return web.Response(body=to_png(portrait), content_type="image/png")


def _error(status: int, message: str, headers: dict[str, str] | None = None) -> web.Response:
    return web.json_response({"error": message}, status=status, headers=headers)


def _bearer(request: web.Request) -> str:
    return request.headers.get("Authorization", "").removeprefix("Bearer ")


async def _json(request: web.Request) -> dict[str, Any]:
    """
    Raises:
        ValueError: the body is too long, or no JSON object.
    """
    body = await request.content.read(SDP_BYTES + 1)
    if len(body) > SDP_BYTES:
        raise ValueError(f"the body must have at most {SDP_BYTES} bytes.")
    try:
        values = json.loads(body or b"{}")
    except ValueError as error:
        raise ValueError(f"the body must be JSON ({error}).") from error
    if not isinstance(values, dict):
        raise ValueError("the body must be a JSON object.")
    return values
