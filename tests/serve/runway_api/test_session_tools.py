"""Tools of a session, called by a language model that is a program of the test's."""

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

from aiohttp import ClientWebSocketResponse, WSServerHandshakeError, web

from serve.live.speech.endpoint_llm import EndpointLLM
from serve.live.speech.endpoints import Caller, Endpoint
from serve.runway_api.session_tools import schema_of
from serve.store.keys import add_key, publishable
from tests.serve.live.remote_kit import Remote, streamed
from tests.serve.live.server_kit import DEADLINE_S, Browser
from tests.serve.live.speech.test_endpoint_llm import call
from tests.serve.runway_api.api_kit import Served, served
from tests.serve.runway_api.test_rooms import entered, heard, opened

CARD = {"type": "client_event", "name": "show_card", "description": "Shows a card."}
ROOM = {"name": "room", "description": "Which.", "type": "string", "enum": ["hall", "attic"]}
LAMP = {"type": "backend_rpc", "name": "lamp", "description": "Switches.", "parameters": [ROOM], "timeoutSeconds": 1}


async def reply(request: web.Request, asked: dict[str, Any]) -> web.StreamResponse:
    """Calls the tool that the question names with the JSON after it, then says "Done" or what went wrong. Before a
    question there may be quotations, such as what a client's camera shows."""
    last = asked["messages"][-1]
    if last["role"] == "tool":
        return streamed(json.loads(last["content"]).get("error", "Done."))
    name, _, arguments = last["content"].split("\n\n")[-1].partition(" ")
    return streamed(call(0, name, arguments), finish="tool_calls")


@contextlib.asynccontextmanager
async def speaking_model(one: Served) -> AsyncIterator[None]:
    """Sessions that are opened now have a language model that calls tools."""
    async with Remote(reply).serving() as url:
        caller = Caller(Endpoint(url=url, model="m", key_variable=""), "llm")
        caller._answered_s, caller.markup.has_opening_tag = 1e9, True  # warm
        one.kit.make_llm = lambda character: EndpointLLM(caller, instruction=character.instruction)
        yield


@contextlib.asynccontextmanager
async def talking(one: Served) -> AsyncIterator[tuple[Browser, str]]:
    """A visitor of a session with both tools, and its path."""
    async with speaking_model(one):
        path, ready = await opened(one, tools=[CARD, LAMP], startScript="Hi!")
        async with Browser() as browser:
            await entered(one, path, ready, browser)
            await heard(browser, "Hi!")
            yield browser, path
        await one.ask("DELETE", path, status=204)


def ask(browser: Browser, text: str) -> None:
    browser.channel.send(json.dumps({"type": "text", "text": text}))


async def calls_of(one: Served, path: str) -> list[dict[str, Any]]:
    conversation = await one.ask("GET", path.replace("realtime_sessions", "avatar_conversations"))
    lines = [line for line in conversation["transcript"] if line["toolCalls"]]
    return [line["toolCalls"][0] | line["toolResults"][0] for line in lines]


def connected(one: Served, path: str, key: str | None = None):
    return one.http.ws_connect(f"/v1{path}/backend", headers={"Authorization": f"Bearer {key or one.key}"})


def test_a_client_event_reaches_the_page_and_the_transcript(tmp_path: Path):
    async def script(one: Served) -> None:
        async with talking(one) as (browser, path):
            ask(browser, 'show_card {"title": "<b>Hours</b>"}')
            await heard(browser, "Done.")
            events = [event for event in map(json.loads, browser.events) if event["type"] == "client_event"]
            assert events == [{"type": "client_event", "tool": "show_card", "args": {"title": "<b>Hours</b>"}}]
            (kept,) = await calls_of(one, path)
            assert (kept["name"], kept["arguments"]) == ("show_card", {"title": "<b>Hours</b>"})
            assert kept["result"] == {"status": "event_sent"} and kept["error"] is None

    served(script, tmp_path)


async def answering(socket: ClientWebSocketResponse, **answer: Any) -> dict[str, Any]:
    """The call that came, which is answered so."""
    asked = await socket.receive_json(timeout=DEADLINE_S)
    await socket.send_json({"type": "tool.result", "id": asked["id"], **answer})
    return asked


def test_a_backend_answers_calls_by_a_websocket_and_its_errors_go_to_the_model(tmp_path: Path):
    async def script(one: Served) -> None:
        async with talking(one) as (browser, path):
            async with connected(one, path) as backend:
                ask(browser, 'lamp {"room": "hall"}')
                asked = await answering(backend, result={"on": True})
                assert (asked["type"], asked["name"], asked["arguments"]) == ("tool.call", "lamp", {"room": "hall"})
                await heard(browser, "Done.")
                ask(browser, 'lamp {"room": "attic"}')
                await answering(backend, error="Broken.")
                await heard(browser, "Broken.")
            first, second = await calls_of(one, path)
            assert first["result"] == {"on": True} and second["error"] == "Broken."

    served(script, tmp_path)


def test_calls_that_nobody_answers_in_time_or_that_do_not_fit_end_with_a_reason(tmp_path: Path):
    async def script(one: Served) -> None:
        async with talking(one) as (browser, path):
            ask(browser, 'lamp {"room": "hall"}')
            await heard(browser, "No program")
            async with connected(one, path) as backend:
                ask(browser, 'lamp {"room": "cellar"}')
                await heard(browser, "must be one of")
                ask(browser, 'lamp {"room": "hall"}')
                await backend.receive_json(timeout=DEADLINE_S)
                await backend.send_str("no JSON")
                await backend.send_json({"type": "tool.result", "id": "999", "result": 1})
                await heard(browser, "did not answer")
            ended = await calls_of(one, path)
        assert [call["result"] for call in ended] == [None] * 3 and all(call["error"] for call in ended)

    served(script, tmp_path)


def test_a_backend_needs_a_secret_key_and_an_open_session_and_ends_with_it(tmp_path: Path):
    async def script(one: Served) -> None:
        page = "https://shop.example"
        public = one.store.do(lambda db: add_key(db, "page", publishable([page])))
        async with talking(one) as (_, path):
            for key, where, status in (
                (public, path, 403),
                ("key_wrong", path, 401),
                (one.key, path[:-4] + "0000", 404),
            ):
                try:
                    async with connected(one, where, key):
                        raise AssertionError("was let in")
                except WSServerHandshakeError as refused:
                    assert refused.status == status
            backend = await connected(one, path)
            await one.ask("DELETE", path, status=204)
            async with asyncio.timeout(DEADLINE_S):
                assert (await backend.receive()).type.name in ("CLOSE", "CLOSING", "CLOSED")

    served(script, tmp_path)


def test_parameters_become_a_schema_with_their_own_parameters_within():
    inner = {"name": "x", "description": "", "type": "number", "required": False, "enum": None, "items": None}
    outer = inner | {"name": "at", "type": "object", "required": True, "properties": [inner | {"properties": None}]}
    schema = schema_of([outer])
    assert schema["required"] == ["at"] and schema["additionalProperties"] is False
    assert schema["properties"]["at"]["properties"]["x"]["type"] == "number"
    assert schema["properties"]["at"]["required"] == [] and schema_of([])["additionalProperties"] is True
