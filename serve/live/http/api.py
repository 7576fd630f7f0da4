"""The HTTP side: pages, characters, uploads, sessions, and what operators look at."""

import logging
from collections.abc import Awaitable, Callable
from dataclasses import asdict, dataclass
from ipaddress import ip_address, ip_network
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from aiohttp import web
from prometheus_client import generate_latest

from gwm.media.framing import Framing
from serve.live.avatar.changes import SessionControls
from serve.live.characters import Character, to_png
from serve.live.gauges import Gauges
from serve.live.http.admission import Admission, Rate, place_of
from serve.live.http.bodies import BODY_S, TooLargeError, read_body, read_json
from serve.live.http.ice import to_json
from serve.live.http.page_session import PageSession
from serve.live.http.refusals import FullError, NotHereError, WrongKeyError
from serve.live.http.renderer_session import Renderer
from serve.live.http.session import Session
from serve.live.http.traced import tracing
from serve.live.http.uploads import UPLOAD_BYTES, Uploads
from serve.live.traces import Traces

log = logging.getLogger(__name__)

WEB = Path(__file__).parent / "web"
PAGES = {"/": "index.html", "/studio": "studio/index.html", "/meet": "meet/index.html"} | {
    f"/{path.relative_to(WEB).as_posix()}": path.relative_to(WEB).as_posix()
    for path in sorted(WEB.rglob("*"))
    if path.suffix in (".js", ".css", ".svg")
}
# The widget's script, and what it loads: for pages of any site. What they open is opened by a key.
SHARED = {"/widget.js", "/call.js", "/captions.js", "/causes.js", "/dom.js", "/server.js", "/vision.js"} | {
    path for path in PAGES if path.startswith("/widget/")
}
SDP_BYTES = 64_000
MODES = ("conversation", "renderer")
# Nothing may come from, or go to, another host.
HEADERS = {
    "Content-Security-Policy": "default-src 'self'; img-src 'self' blob:; media-src 'self' blob:; connect-src 'self'; "
    "frame-ancestors 'none'; base-uri 'none'; form-action 'none'",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Permissions-Policy": "microphone=(self), camera=(self), display-capture=(self)",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Cache-Control": "no-cache",
}
FOR_ANY_PAGE = {"Cross-Origin-Resource-Policy": "cross-origin"}
# From an id, a character, and what to call at the end.
MakeConversation = Callable[[str, Character, Callable[[], None]], PageSession]
MakeRenderer = Callable[[str, Character, Callable[[], None]], Renderer]
Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


@dataclass(frozen=True, slots=True)
class SessionRequest:
    """What a visitor asks for when a session is opened."""

    character: str | None = None
    image: str | None = None  # the key of an upload
    mode: str = "conversation"

    @classmethod
    def of(cls, values: dict[str, Any]) -> "SessionRequest":
        """Read and check the fields of a request.

        Raises:
            ValueError: a field is unknown, no text, or has a value that does not exist.
        """
        for name, value in values.items():
            if name not in cls.__slots__:
                raise ValueError(f"field {name!r} must be one of {', '.join(cls.__slots__)}.")
            if not isinstance(value, str) and not (value is None and name != "mode"):
                raise ValueError(f"{name}={value!r} must be text.")
        wish = cls(**values)
        if wish.mode not in MODES:
            raise ValueError(f"mode={wish.mode!r} must be one of {', '.join(MODES)}.")
        return wish


class Api:
    """Handlers of one server; `app` is what aiohttp runs."""

    def __init__(
        self,
        admission: Admission,
        characters: dict[str, Character],
        *,
        make_conversation: MakeConversation,
        make_renderer: MakeRenderer,
        framing: Framing,
        controls: SessionControls,
        hosts: set[str],
        origins: set[str],
        trusted_proxies: list[str],
        requests_per_minute: int,
        gauges: Gauges,
        uploads: Uploads | None = None,
        traces: Traces | None = None,
    ) -> None:
        """uploads: None: nobody else uses them."""
        self.admission, self.characters, self.framing, self.gauges = admission, characters, framing, gauges
        self.make_conversation, self.make_renderer, self.controls = make_conversation, make_renderer, controls
        self.hosts, self.origins = hosts, origins
        self.proxies = [ip_network(proxy) for proxy in trusted_proxies]
        self.uploads, self.rate = uploads or Uploads(), Rate(requests_per_minute, 60.0)
        self.app = web.Application(middlewares=[*tracing(traces), self._guard])
        self.app.on_cleanup.append(self._close)
        self.app.router.add_routes(
            [
                *(web.get(path, self.page) for path in PAGES),
                web.get("/v1/characters", self.list_characters),
                web.get("/v1/characters/{key}/image", self.character_image),
                web.post("/v1/images", self.upload),
                web.get("/v1/images/{key}", self.uploaded_image),
                web.post("/v1/sessions", self.open_session),
                web.get("/v1/sessions/{id}/renderer", self.render),
                web.get("/health", self.health),
                web.get("/ready", self.ready),
                web.get("/metrics", self.metrics),
            ]
        )
        # Opened by a session's key alone, never by a cookie: pages of other sites may ask too.
        keyed = [
            web.get("/v1/sessions/{id}/ice_servers", self.ice_servers),
            web.post("/v1/sessions/{id}/offer", self.connect),
            web.delete("/v1/sessions/{id}", self.end_session),
        ]
        self._by_session_key = {route.resource for route in self.app.router.add_routes(keyed)}

    async def _close(self, app: web.Application) -> None:
        self.uploads.close()

    async def page(self, request: web.Request) -> web.StreamResponse:
        headers = FOR_ANY_PAGE | {"Access-Control-Allow-Origin": "*"} if request.path in SHARED else None
        return web.FileResponse(WEB / PAGES[request.path], headers=headers)

    async def list_characters(self, request: web.Request) -> web.Response:
        entries = [
            {"key": character.key, "name": character.name, "image": f"/v1/characters/{character.key}/image"}
            for character in self.characters.values()
        ]
        return web.json_response({"characters": entries, "sound": self.controls.sound})

    async def character_image(self, request: web.Request) -> web.Response:
        response = _png(self._character(request.match_info["key"]).picture)
        response.headers.update(FOR_ANY_PAGE)  # a widget shows whom one may talk to
        return response

    async def upload(self, request: web.Request) -> web.Response:
        self.rate.check(self.visitor(request))
        data = await read_body(request, UPLOAD_BYTES)
        portrait, found = await self.uploads.portrait(data, self.framing, face=self.controls.sound)
        key = self.uploads.add(portrait)
        note = None if found else "No face was found, so the middle of the picture is used."
        return web.json_response({"key": key, "image": f"/v1/images/{key}", "note": note})

    async def uploaded_image(self, request: web.Request) -> web.Response:
        return _png(self.framing.shown(self.uploads.get(request.match_info["key"])))

    async def open_session(self, request: web.Request) -> web.Response:
        visitor = self.visitor(request)
        self.rate.check(visitor)
        wish = SessionRequest.of(await read_json(request, SDP_BYTES))
        character = self._character(wish.character or next(iter(self.characters)))
        if wish.image:
            character = character.with_portrait(self.uploads.get(wish.image))
        make = self.make_renderer if wish.mode == "renderer" else self.make_conversation
        session = self.admission.open(lambda session_id, on_end: make(session_id, character, on_end), visitor)
        made = {"id": session.id, "status": "READY", "session_key": session.key.value}
        return web.json_response(made | {"controls": asdict(self.controls)}, status=201)

    async def ice_servers(self, request: web.Request) -> web.Response:
        """What a page makes its connection with; the key is as good as before."""
        session = self.admission.get(request.match_info["id"], PageSession)
        session.key.check(_bearer(request))
        servers = [to_json(server) for server in session.ice_servers()]
        return web.json_response({"ice_servers": servers}, headers={"Cache-Control": "no-store"})

    async def connect(self, request: web.Request) -> web.Response:
        session = self.admission.get(request.match_info["id"], PageSession)
        offer = await read_json(request, SDP_BYTES)
        if not isinstance(offer.get("sdp"), str):
            raise ValueError("sdp must be a string: the client's offer.")
        answer, key = await session.connect(_bearer(request), offer["sdp"])
        return web.json_response({"type": "answer", "sdp": answer, "session_key": key})

    async def end_session(self, request: web.Request) -> web.Response:
        session = self.admission.get(request.match_info["id"], Session)
        session.key.check(_bearer(request))
        await session.close("You have left.")
        return web.Response(status=204)

    async def render(self, request: web.Request) -> web.WebSocketResponse:
        return await self.admission.get(request.match_info["id"], Renderer).serve(_bearer(request), request)

    async def health(self, request: web.Request) -> web.Response:
        return web.json_response({"status": "alive"})

    async def ready(self, request: web.Request) -> web.Response:
        places = self.admission
        numbers = {"free": places.free, "capacity": places.capacity, "draining": places.draining}
        return web.json_response(numbers, status=200 if places.free else 503)

    async def metrics(self, request: web.Request) -> web.Response:
        return web.Response(body=generate_latest(self.gauges.registry), content_type="text/plain", charset="utf-8")

    def visitor(self, request: web.Request) -> str:
        """The address (IPv6: network) of whoever asks; behind trusted proxies the last one that they were asked by."""
        address = request.remote or ""
        forwarded = [part.strip() for part in request.headers.get("X-Forwarded-For", "").split(",") if part.strip()]
        while forwarded and self._trusted(address):
            address = forwarded.pop()
        return place_of(address)

    def _trusted(self, address: str) -> bool:
        try:
            return any(ip_address(address) in proxy for proxy in self.proxies)
        except ValueError:  # a proxy may write a name there
            return False

    def _character(self, key: str) -> Character:
        if key not in self.characters:
            raise NotHereError(f"There is no character of this name. There are: {', '.join(self.characters)}.")
        return self.characters[key]

    @web.middleware
    async def _guard(self, request: web.Request, handler: Handler) -> web.StreamResponse:
        """Refuse foreign pages, and turn every known error into JSON with a message for a person."""
        try:
            self._check_host(request)
            if (
                request.match_info.apps[-1] is self.app
            ):  # what is mounted asks for keys, and has its own rules for pages
                self._check_origin(request)
            response = await handler(request)
        except FullError as error:
            self.gauges.refused.labels(error.reason).inc()
            response = _error(429, str(error), {"Retry-After": str(error.retry_after_s)}, reason=error.reason)
        except WrongKeyError as error:
            response = _error(403, str(error))
        except NotHereError as error:
            response = _error(404, str(error))
        except TooLargeError as error:
            response = _error(413, str(error))
        except ValueError as error:
            response = _error(400, str(error))
        except TimeoutError:
            response = _error(408, f"The body did not arrive within {BODY_S:.0f} s. Try again.")
        except web.HTTPException as error:
            response = _error(error.status, error.reason)
        if not response.prepared:  # a websocket has ended by now
            if request.match_info.route.resource in self._by_session_key:
                allow_page(response, request)
            for name, value in HEADERS.items():
                response.headers.setdefault(name, value)
            if request.method == "POST":  # the answer holds keys
                response.headers["Cache-Control"] = "no-store"
        return response

    def _check_host(self, request: web.Request) -> None:
        """A page of another site must not reach a server on its visitor's own machine by a name of its own."""
        host = urlsplit(f"//{request.host}").hostname
        if "*" not in self.hosts and host not in self.hosts:
            raise WrongKeyError(f"host {host} is not served here. Add it to hosts in the configuration.")

    def _check_origin(self, request: web.Request) -> None:
        """Nor by the server's right name. What a session's key opens is for pages that the session is open to."""
        origin = request.headers.get("Origin")
        if not origin or origin in self.origins or urlsplit(origin).netloc == request.host or request.path in SHARED:
            return
        if request.match_info.route.resource in self._by_session_key:
            session = self.admission.sessions.get(request.match_info["id"])
            if session is None or session.open_to is None or origin in session.open_to:
                return
        raise WrongKeyError(f"origin {origin} is not allowed. Add it to origins in the configuration.")


def allow_page(response: web.StreamResponse, request: web.Request) -> None:
    """Let the page that asks read the answer: what opens a route is a key, never a cookie."""
    if origin := request.headers.get("Origin"):
        response.headers["Access-Control-Allow-Origin"] = origin
        response.headers["Vary"] = "Origin"


def _png(portrait: Any) -> web.Response:
    return web.Response(body=to_png(portrait), content_type="image/png")


def _error(status: int, message: str, headers: dict[str, str] | None = None, **more: str) -> web.Response:
    return web.json_response({"error": message, **more}, status=status, headers=headers)


def _bearer(request: web.Request) -> str:
    return request.headers.get("Authorization", "").removeprefix("Bearer ")
