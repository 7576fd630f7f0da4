"""The tools that a session was created with, as a language model may call them."""

import json
from collections.abc import Callable
from typing import Any

from serve.live.speech.tools import BackendPlace, Tool

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
        timeout_s=EVENT_S if shows else stored["timeout_seconds"],
        run=show if shows else ask,
    )
