"""Who may send what, from which page; and every refusal as JSON."""

import logging

from aiohttp import web
from pydantic import ValidationError
from sqlalchemy.exc import OperationalError

from serve.live.http.admission import Rate
from serve.live.http.api import allow_page
from serve.live.http.bodies import TooLargeError
from serve.live.http.refusals import FullError
from serve.runway_api.call import ApiError, issues_of
from serve.runway_api.routes import Access
from serve.store.database import Store
from serve.store.keys import find_key
from serve.store.tables import ApiKey

log = logging.getLogger(__name__)

METHODS, HEADERS = "GET, POST, DELETE", "Authorization, Content-Type, X-Runway-Version"
PREFLIGHT_S = 600


class Guard:
    """Checks keys against the store, and requests against the limits of their key."""

    def __init__(self, store: Store) -> None:
        self.store = store
        self._rates: dict[tuple[str, int], Rate] = {}

    async def key(self, access: Access, request: web.Request) -> ApiKey | None:
        """The key that the request is made with; None where the route needs none.

        Raises:
            ApiError: there is no such key, or it does not open what has this access to this page.
        """
        if access in ("session", "open"):
            return None
        text = bearer(request)
        key = await self.store.run(lambda db: find_key(db, text), writes=False) if text else None
        if key is None:
            raise ApiError(401, "The API key is missing or not valid. Make one with: python -m serve.keys name=NAME")
        if key.origins:
            self._check_page(access, request, key)
        return key

    def check_rate(self, key: ApiKey | None, visitor: str) -> None:
        """Count a request against the rate limit of its key, for each visitor.

        Raises:
            FullError: the visitor has asked too often with this key.
        """
        if key is None or key.requests_per_minute is None:
            return
        limit = key.requests_per_minute
        self._rates.setdefault((key.id, limit), Rate(limit, 60.0)).check(visitor)

    def _check_page(self, access: Access, request: web.Request, key: ApiKey) -> None:
        if access != "page":
            raise ApiError(403, "A publishable key opens sessions and nothing else. Use a secret key on a server.")
        origin = request.headers.get("Origin")
        if origin not in key.origins:
            raise ApiError(403, f"This key is not for pages of {origin or 'no origin'}.")


def bearer(request: web.Request) -> str:
    scheme, _, text = request.headers.get("Authorization", "").partition(" ")
    return text.strip() if scheme.lower() == "bearer" else ""


def preflight(request: web.Request) -> web.Response:
    """Says which methods may be sent; whether one is answered depends on its key."""
    response = web.Response(status=204)
    response.headers["Access-Control-Allow-Methods"] = METHODS
    response.headers["Access-Control-Allow-Headers"] = HEADERS
    response.headers["Access-Control-Max-Age"] = str(PREFLIGHT_S)
    allow_page(response, request)
    return response


def refusal(error: Exception) -> web.Response:
    """The answer to a request that failed.

    Raises:
        Exception: the error itself, which nobody outside learns.
    """
    if isinstance(error, ApiError):
        return web.json_response({"error": str(error)}, status=error.status, headers=error.headers)
    if isinstance(error, ValidationError):
        issues = issues_of(error.errors(include_url=False, include_context=False, include_input=False))
        first = f"{'.'.join(map(str, issues[0]['path'])) or 'body'}: {issues[0]['message']}"
        return web.json_response({"error": f"{first}.", "issues": issues}, status=400)
    if isinstance(error, FullError):
        headers = {"Retry-After": str(error.retry_after_s), "x-should-retry": "false"}
        return web.json_response({"error": str(error)}, status=429, headers=headers)
    if isinstance(error, TooLargeError):
        return web.json_response({"error": str(error)}, status=413)
    if isinstance(error, TimeoutError):
        return web.json_response({"error": "The body did not arrive in time."}, status=408)
    if isinstance(error, OperationalError):
        log.error("the store does not answer: %s", error.orig)
        return web.json_response({"error": "The store does not answer. Try again."}, status=503)
    if isinstance(error, ValueError):
        return web.json_response({"error": str(error)}, status=400)
    if isinstance(error, web.HTTPException):
        return web.json_response({"error": error.reason}, status=error.status)
    raise error
