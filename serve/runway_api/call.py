"""What a handler is given beside the database (who asks, how, what of the live server it may use), and its refusals."""

from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import Any, Literal

from serve.live.speech.voice_servers import Speech
from serve.store.tables import ApiKey, Session

Command = Literal["generate", "dub", "edit"]  # that makes a film


@dataclass(frozen=True, slots=True)
class Desk:
    """The server as handlers see it."""

    owner: str  # id of this server among those that share the store
    characters: dict[str, str]  # built-in ones: key and name
    speech: Speech
    # Token and name of the room that a program joins, of an open session; None: it is not open here.
    backend_room: Callable[[Session], dict[str, str] | None]
    refuses: Callable[[Command], str | None]  # why there are no films by a command; None: there are
    bots: frozenset[str] = frozenset()  # services that bring characters into meetings
    max_meetings: int = 0  # open at once


@dataclass(frozen=True, slots=True)
class Call:
    """One request."""

    desk: Desk
    base_url: str  # of this server, as the client sees it
    ids: dict[str, str]  # of the path
    bearer: str
    key: ApiKey | None  # None: the route needs none
    places: int  # of the server, at the time
    visitor: str  # address of whoever asks, or its IPv6 network
    origin: str | None  # of the page that asks
    # What is done once the answer is stored, in the background.
    later: list[Callable[[], Awaitable[None]]] = field(default_factory=list)

    @property
    def id(self) -> str:
        return self.ids["id"]

    def file_url(self, file_id: str | None) -> str | None:
        return None if file_id is None else f"{self.base_url}/v1/files/{file_id}"


@dataclass(frozen=True, slots=True)
class Stored:
    """An answer that is a file of the store, sent in its pieces; pages of any site may show it."""

    file_id: str
    num_bytes: int
    content_type: str


class ApiError(Exception):
    """Answered with `status`.

    retry: whether the same request may succeed later; clients send 409 and 429 again unless this is false.
    """

    def __init__(self, status: int, message: str, *, retry: bool = False, retry_after_s: int | None = None) -> None:
        super().__init__(message)
        self.status, self.retry, self.retry_after_s = status, retry, retry_after_s

    @property
    def headers(self) -> dict[str, str]:
        after = {} if self.retry_after_s is None else {"Retry-After": str(self.retry_after_s)}
        return {"x-should-retry": str(self.retry).lower(), **after}


def not_found(what: str) -> ApiError:
    return ApiError(404, f"There is no {what} of this id, or no longer.")


def issues_of(errors: list[Any]) -> list[dict[str, Any]]:
    """What is wrong where, of pydantic's errors; never the value itself, which may be long or secret."""
    return [{"path": list(one["loc"]), "message": one["msg"], "code": one["type"]} for one in errors]
