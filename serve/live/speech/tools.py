"""Tools that a language model may call, each with an end: a result, or why there is none."""

import asyncio
import json
import secrets
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

ARGUMENT_CHARS, RESULT_CHARS = 15_000, 8_000  # as JSON; the first is what LiveKit's calls can carry
WAITING_CALLS = 32  # of one program
GONE = "The program that answers has gone."
NOBODY = "No program is connected that answers this."
INTERRUPTED = "The call was given up, as the user spoke."
TYPES: dict[str, tuple[type, ...]] = {
    "string": (str,),
    "integer": (int,),
    "number": (int, float),
    "boolean": (bool,),
    "array": (list,),
    "object": (dict,),
}


class CallError(RuntimeError):
    """A tool could not be called, or failed; the message says why, to the language model."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Tool:
    """What a language model may call."""

    name: str
    description: str
    parameters: dict[str, Any]  # JSON schema of an object
    timeout_s: float
    run: Callable[[dict[str, Any]], Awaitable[Any]]  # from arguments to JSON; raises CallError


@dataclass(frozen=True, slots=True, kw_only=True)
class Call:
    """One that has ended: with a result, or with an error."""

    id: str
    name: str
    arguments: dict[str, Any]
    result: Any
    error: str | None
    duration_ms: int


@runtime_checkable
class Backend(Protocol):
    """A program that is connected to a session, and answers calls."""

    async def call(self, method: str, arguments: dict[str, Any], *, timeout_s: float) -> str:
        """What the method returns, as text; most often JSON.

        Raises:
            CallError: there is no such method, it failed, or it did not answer in time.
        """
        ...


class WaitingCalls:
    """Calls that one program was sent, until it answers."""

    def __init__(self) -> None:
        self._answers: dict[str, asyncio.Future[str]] = {}

    async def call(self, method: str, send: Callable[[str], Awaitable[None]], *, timeout_s: float) -> str:
        """As `Backend.call`.

        send: the call, with this id; raises ConnectionError when the program has gone.
        """
        if len(self._answers) >= WAITING_CALLS:
            raise CallError(f"{WAITING_CALLS} calls wait already.")
        call_id = secrets.token_hex(8)
        answer = self._answers[call_id] = asyncio.get_running_loop().create_future()
        try:
            async with asyncio.timeout(timeout_s):
                await send(call_id)
                return await answer
        except TimeoutError as error:
            raise CallError(f"{method} did not answer within {timeout_s:g} s.") from error
        except ConnectionError as error:
            raise CallError(GONE) from error
        finally:
            del self._answers[call_id]

    def answer(self, call_id: str, outcome: str | CallError) -> None:
        """Unless it comes too late."""
        answer = self._answers.get(call_id)
        if answer is None or answer.done():
            return
        if isinstance(outcome, CallError):
            answer.set_exception(outcome)
        else:
            answer.set_result(outcome)

    def end(self) -> None:
        """The program has gone."""
        for call_id in self._answers:
            self.answer(call_id, CallError(GONE))


class BackendPlace:
    """Where the backend of a session is while one is connected; the latest one is asked."""

    def __init__(self) -> None:
        self.ended = asyncio.Event()  # the session is over
        self._backends: list[Backend] = []

    def attach(self, backend: Backend) -> None:
        self._backends.append(backend)

    def detach(self, backend: Backend) -> None:
        self._backends.remove(backend)

    async def call(self, method: str, arguments: dict[str, Any], *, timeout_s: float) -> str:
        """As `Backend.call`.

        Raises:
            CallError: as there, or nobody is connected.
        """
        if not self._backends:
            raise CallError(NOBODY)
        return await self._backends[-1].call(method, arguments, timeout_s=timeout_s)


async def perform(tool: Tool, call_id: str, arguments: dict[str, Any], on_end: Callable[[Call], None]) -> Any:
    """Call a tool with arguments that fit its parameters; what the language model is given."""
    begin_s = time.monotonic()
    result, error = None, None
    try:
        check_arguments(arguments, tool.parameters)
        async with asyncio.timeout(tool.timeout_s):
            result = _short(await tool.run(arguments))
    except TimeoutError:
        error = f"{tool.name} did not answer within {tool.timeout_s:g} s."
    except CallError as failure:
        error = str(failure)
    except asyncio.CancelledError:
        error = INTERRUPTED
        raise
    finally:
        duration_ms = round(1000 * (time.monotonic() - begin_s))
        on_end(
            Call(id=call_id, name=tool.name, arguments=arguments, result=result, error=error, duration_ms=duration_ms)
        )
    return {"result": result} if error is None else {"error": error}


def check_arguments(arguments: dict[str, Any], schema: dict[str, Any]) -> None:
    """Check types, choices and required names. Other words of JSON schema are left to whoever carries out the call.

    Raises:
        CallError: the arguments do not fit, or are too long; the message says which and why.
    """
    if len(json.dumps(arguments)) > ARGUMENT_CHARS:
        raise CallError(f"The arguments must have at most {ARGUMENT_CHARS} characters.")
    _check(arguments, {"type": "object", **schema}, "arguments")


def _check(value: Any, schema: dict[str, Any], path: str) -> None:
    kind = schema.get("type")
    if isinstance(kind, str) and kind in TYPES:
        fits = isinstance(value, TYPES[kind]) and (kind == "boolean" or not isinstance(value, bool))
        if not fits:
            raise CallError(f"{path} must be of type {kind}.")
    choices = schema.get("enum")
    if choices and value not in choices:
        raise CallError(f"{path} must be one of {', '.join(map(str, choices))}.")
    if isinstance(value, dict):
        _check_fields(value, schema, path)
    if isinstance(value, list) and isinstance(schema.get("items"), dict):
        for place, item in enumerate(value):
            _check(item, schema["items"], f"{path}[{place}]")


def _check_fields(value: dict[str, Any], schema: dict[str, Any], path: str) -> None:
    for name in schema.get("required", []):
        if name not in value:
            raise CallError(f"{path} must have {name}.")
    fields = schema.get("properties", {})
    for name, field in value.items():
        if name in fields:
            _check(field, fields[name], f"{path}.{name}")
        elif schema.get("additionalProperties") is False:
            raise CallError(f"{path} must not have {name[:64]}.")


def _short(result: Any) -> Any:
    """A result as it is, or the beginning of its text."""
    text = result if isinstance(result, str) else json.dumps(result, ensure_ascii=False)
    return result if len(text) <= RESULT_CHARS else f"{text[:RESULT_CHARS]} (cut off)"
