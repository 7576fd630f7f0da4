"""The tools that a session was created with, as a language model may call them, and the websocket by which a program
answers the calls of its backend_rpc tools."""

import asyncio
import contextlib
import json
from collections.abc import Callable
from typing import Any

from aiohttp import WSMsgType, web

from gwm.files.json_text import json_text
from serve.live.speech.tools import BackendPlace, CallError, Tool, WaitingCalls

SENT = {"status": "event_sent"}  # as Runway's model is answered; nobody acknowledges an event
EVENT_S = 1.0


def session_tools(
    stored: list[dict[str, Any]], *, send: Callable[[dict[str, Any]], None], backend: BackendPlace
) -> list[Tool]:
    """
    stored: as requests have them.
    send: to the visitor.
    """
    return [_tool(each, send, backend) for each in stored]


def schema_of(parameters: list[dict[str, Any]]) -> dict[str, Any]:
    """JSON schema of an object with these parameters. Without any, the model may send what it likes."""
    return {
        "type": "object",
        "properties": {each["name"]: _value_schema(each) for each in parameters},
        "required": [each["name"] for each in parameters if each["required"]],
        "additionalProperties": not parameters,
    }


def _value_schema(parameter: dict[str, Any]) -> dict[str, Any]:
    schema = {"type": parameter["type"], "description": parameter["description"]}
    if parameter["enum"]:
        schema["enum"] = parameter["enum"]
    if parameter["items"]:
        schema["items"] = parameter["items"]
    return schema | schema_of(parameter["properties"]) if parameter["properties"] else schema


def _tool(stored: dict[str, Any], send: Callable[[dict[str, Any]], None], backend: BackendPlace) -> Tool:
    name = stored["name"]

    async def show(arguments: dict[str, Any]) -> Any:
        send({"type": "client_event", "tool": name, "args": arguments})
        return SENT

    async def ask(arguments: dict[str, Any]) -> Any:
        text = await backend.call(name, arguments, timeout_s=stored["timeout_seconds"])
        try:
            return json.loads(text)
        except ValueError:
            return text

    shows = stored["type"] == "client_event"
    return Tool(
        name=name,
        description=stored["description"],
        parameters=schema_of(stored["parameters"]),
        timeout_s=float(EVENT_S if shows else stored["timeout_seconds"]),
        run=show if shows else ask,
    )


MESSAGE_BYTES = 64_000
HEARTBEAT_S = 20.0


class SocketBackend:
    """A `Backend`: sends `tool.call`, and takes `tool.result` of the same id with a `result` or an `error`."""

    def __init__(self) -> None:
        self.socket = web.WebSocketResponse(heartbeat=HEARTBEAT_S, max_msg_size=MESSAGE_BYTES)
        self._calls = WaitingCalls()

    async def call(self, method: str, arguments: dict[str, Any], *, timeout_s: float) -> str:
        """As `Backend.call`."""

        async def send(call_id: str) -> None:
            message = {"type": "tool.call", "id": call_id, "name": method, "arguments": arguments}
            await self.socket.send_str(json_text(message))

        return await self._calls.call(method, send, timeout_s=timeout_s)

    async def serve(self, request: web.Request, place: BackendPlace) -> web.WebSocketResponse:
        """Answer calls until the program or the session ends."""
        await self.socket.prepare(request)
        place.attach(self)
        ended = asyncio.create_task(place.ended.wait())
        reading = asyncio.create_task(self._read())
        try:
            await asyncio.wait([ended, reading], return_when=asyncio.FIRST_COMPLETED)
        finally:
            place.detach(self)
            for task in (ended, reading):
                task.cancel()
            self._calls.end()
            await self.socket.close()
        return self.socket

    async def _read(self) -> None:
        async for message in self.socket:
            if message.type is WSMsgType.TEXT:
                self._take(message.data)

    def _take(self, text: str) -> None:
        values: Any = None
        with contextlib.suppress(ValueError):
            values = json.loads(text)
        if not isinstance(values, dict) or values.get("type") != "tool.result":
            return
        failed = values.get("error") is not None
        outcome = CallError(str(values["error"])) if failed else json.dumps(values.get("result"))
        self._calls.answer(str(values.get("id")), outcome)
