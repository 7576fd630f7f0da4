"""Why a request to an endpoint failed, by its cause, in a sentence for the visitor."""

import json
import re
import socket
import ssl
from collections.abc import Iterator
from dataclasses import dataclass
from email.utils import parsedate_to_datetime
from typing import Any

import httpx2
from openai import APIError, APIStatusError, APITimeoutError

MESSAGE_CHARS = 200  # of a server's own words
PARTS = {"llm": "The language model", "tts": "The voice", "stt": "Speech recognition"}
QUOTA = re.compile(r"quota|billing|credit|balance|payment", re.IGNORECASE)
LOADING = re.compile(r"loading|warming|starting up|not ready", re.IGNORECASE)


class EndpointError(RuntimeError):
    """The message is for a person; the rest says whether asking again can help."""

    def __init__(self, message: str, *, loading: bool = False, again: bool = False, wait_s: float = 0.0) -> None:
        super().__init__(message)
        self.loading, self.again, self.wait_s = loading, again, wait_s


@dataclass(frozen=True, slots=True)
class Place:
    """The facts about an endpoint that an error message names."""

    part: str  # llm, tts or stt
    model: str
    key_variable: str
    first_byte_s: float

    def error(self, what: str, **kind: Any) -> EndpointError:
        return EndpointError(f"{PARTS[self.part]} {what}", **kind)


def explained(error: Exception, place: Place) -> EndpointError:
    """The failure of a request, or of an answer that was being read."""
    if isinstance(error, EndpointError):
        return error
    if isinstance(error, APIStatusError):
        return _of_status(error, place)
    causes = list(_causes(error))
    for kind, explain in _CONNECTIONS:
        if found := next((cause for cause in causes if isinstance(cause, kind)), None):
            return explain(found, place)
    if isinstance(error, APIError) and error.body:  # reported in the middle of a stream
        return place.error(f"reports an error: {_words(error)}")
    if isinstance(error, (ValueError, TypeError, KeyError, AttributeError, IndexError)):
        shown = f"{type(error).__name__}: {str(error)[:MESSAGE_CHARS]}"
        return place.error(f"does not answer as OpenAI's API does ({shown}). Check endpoints.{place.part}.url.")
    return place.error(f"cannot be reached ({type(error).__name__}: {error}). Check endpoints.{place.part}.url.")


def unexpected(kind: str, body: bytes, place: Place) -> EndpointError:
    """A successful answer whose body is something else than what was asked for."""
    beginning = body.lstrip()[:1].lower()
    if beginning == b"<" or "html" in kind:
        return place.error(
            f"answered with a web page. Correct endpoints.{place.part}.url: for most servers it ends in /v1."
        )
    try:
        message = json.loads(body)["error"]
    except (ValueError, KeyError, TypeError):
        shown = body[:40].decode("utf-8", "replace")
        return place.error(f"answered with {kind or 'something'} that is not what was asked for: {shown!r}.")
    return place.error(f"reports an error: {_message(message)}")


def rejected_parameter(error: Exception, sent: dict[str, Any], known: dict[str, str | None]) -> str | None:
    """The parameter, of those that can be left out, to which a server objects by name."""
    if not isinstance(error, APIStatusError) or error.status_code not in (400, 422):
        return None
    text = f"{error.param or ''} {json.dumps(error.body, default=str)} {error.message}"
    named = [name for name in known if name in sent and re.search(rf"(?<![\w]){re.escape(name)}(?![\w])", text)]
    if error.param in named:
        return error.param
    return min(named, key=lambda name: text.index(name)) if named else None


def _of_status(error: APIStatusError, place: Place) -> EndpointError:
    status, words = error.status_code, _words(error)
    if status == 429 and not QUOTA.search(f"{error.code} {error.type} {words}"):
        wait_s = retry_after_s(error.response.headers)
        when = "in a moment" if wait_s is None else f"in {wait_s:.0f} s"
        pause_s = 1.0 if wait_s is None else wait_s
        return place.error(f"is asked too often (429). Try again {when}.", wait_s=pause_s, again=True)
    if status in (402, 429):
        return place.error(f"has no quota left ({status}): {words}")
    if status == 401:
        return place.error(f"refuses the key (401). Set {place.key_variable or 'its key'} before the server starts.")
    if status == 403:
        return place.error(f"is not allowed with this key (403): {words}")
    if status in (404, 405):
        return place.error(
            f"is not there ({status}): {words} Correct endpoints.{place.part}.model={place.model} or its url."
        )
    if status == 503 and LOADING.search(words):
        return place.error("is loading its model. It answers when that is done.", loading=True)
    if status >= 500:
        return place.error(f"has an error of its own ({status}): {words}", again=True)
    return place.error(f"refuses the request ({status}): {words}")


def retry_after_s(headers: httpx2.Headers) -> float | None:
    """Seconds that a server asks to wait, given as a number or as a date; None where it gives neither."""
    value = headers.get("retry-after", "")
    try:
        return max(0.0, float(value))
    except ValueError:
        pass
    try:
        then, now = parsedate_to_datetime(value), parsedate_to_datetime(headers["date"])
    except (ValueError, TypeError, KeyError):
        return None
    return max(0.0, (then - now).total_seconds())


def _words(error: APIError) -> str:
    body: Any = error.body
    return _message(body if isinstance(body, (dict, str)) and body else error.message)


def _message(body: Any) -> str:
    """A server's own message, as one short sentence."""
    if isinstance(body, dict):
        body = next((body[name] for name in ("message", "detail", "error", "msg") if body.get(name)), body)
    text = " ".join((body if isinstance(body, str) else json.dumps(body, default=str)).split())
    if text.startswith("<"):
        return "a web page."
    return text[:MESSAGE_CHARS] + ("" if text.endswith((".", "!", "?")) else ".")


def _causes(error: BaseException | None) -> Iterator[BaseException]:
    """The error and everything behind it."""
    while error is not None:
        if isinstance(error, BaseExceptionGroup):
            for part in error.exceptions:
                yield from _causes(part)
        yield error
        error = error.__cause__ or error.__context__


def _unknown_host(cause: BaseException, place: Place) -> EndpointError:
    return place.error(f"cannot be reached: its host name is not known. Correct endpoints.{place.part}.url.")


def _certificate(cause: BaseException, place: Place) -> EndpointError:
    return place.error(f"cannot be reached: no secure connection ({cause}). Check endpoints.{place.part}.url.")


def _nobody_listens(cause: BaseException, place: Place) -> EndpointError:
    return place.error(
        f"cannot be reached: nothing listens at its address. Start it, or correct endpoints.{place.part}.url."
    )


def _no_connection(cause: BaseException, place: Place) -> EndpointError:
    return place.error(f"cannot be reached: no connection in time. Check endpoints.{place.part}.url and the network.")


def _no_answer(cause: BaseException, place: Place) -> EndpointError:
    return place.error(
        f"did not answer within {place.first_byte_s:g} s. If it was loading its model, raise "
        f"endpoints.{place.part}.first_byte_s."
    )


def _broke_off(cause: BaseException, place: Place) -> EndpointError:
    return place.error("broke off in the middle of an answer. Try again.", again=True)


_CONNECTIONS = (
    (socket.gaierror, _unknown_host),
    (ssl.SSLError, _certificate),
    (ConnectionRefusedError, _nobody_listens),
    ((httpx2.ConnectTimeout, httpx2.PoolTimeout), _no_connection),
    ((APITimeoutError, httpx2.TimeoutException, TimeoutError), _no_answer),
    ((httpx2.RemoteProtocolError, httpx2.ReadError, httpx2.WriteError, ConnectionResetError), _broke_off),
)
