"""Tools of another program, asked by the Model Context Protocol."""

import asyncio
import json
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import Any

import pytest
from aiohttp import web

from serve.live.options import McpOptions
from serve.live.speech.mcp_server import PROTOCOL, SESSION, McpServer
from serve.live.speech.tools import CallError
from tests.serve.runway_api.api_kit import site

SCHEMA = {"type": "object", "properties": {"number": {"type": "integer"}}, "required": ["number"]}


@dataclass
class Program:
    """Speaks the protocol as its specification has it, with two pages of tools and a session."""

    streams: bool = False
    session: str = "first"
    asked: list[tuple[str, Any]] = field(default_factory=list)
    headers: list[dict[str, str]] = field(default_factory=list)

    async def answer(self, request: web.Request) -> web.Response:
        message = json.loads(await request.text())
        method, given = message["method"], message.get("params", {})
        self.asked.append((method, given))
        self.headers.append(dict(request.headers))
        if method != "initialize" and request.headers.get(SESSION) != self.session:
            return web.Response(status=404)
        if "id" not in message:
            return web.Response(status=202)
        body = {"jsonrpc": "2.0", "id": message["id"], **self.outcome(method, given)}
        headers = {SESSION: self.session}
        if not self.streams:
            return web.json_response(body, headers=headers)
        progress = json.dumps({"jsonrpc": "2.0", "method": "notifications/progress", "params": {}})
        text = f"event: message\ndata: {progress}\n\nevent: message\ndata: {json.dumps(body)}\n\n"
        return web.Response(text=text, content_type="text/event-stream", headers=headers)

    def outcome(self, method: str, given: dict[str, Any]) -> dict[str, Any]:
        if method == "initialize":
            return {"result": {"protocolVersion": PROTOCOL, "capabilities": {"tools": {}}}}
        if method == "tools/list":
            if "cursor" in given:
                return {"result": {"tools": [{"name": "cancel.order", "inputSchema": SCHEMA}]}}
            return {"result": {"tools": [{"name": "find_order", "inputSchema": SCHEMA}], "nextCursor": "2"}}
        if given["arguments"]["number"] < 0:
            return {"result": {"content": [{"type": "text", "text": "There is no such order."}], "isError": True}}
        if given["arguments"]["number"] == 0:
            return {"error": {"code": -32602, "message": "Zero is no number of an order."}}
        return {"result": {"content": [{"type": "text", "text": f"Order {given['arguments']['number']} is sent."}]}}


def connected(program: Program, script: Callable[[McpServer], Awaitable[None]], **options: Any) -> None:
    async def run() -> None:
        async with site(program.answer) as url:
            server = McpServer("shop", McpOptions(url=url, **options))
            try:
                await script(server)
            finally:
                await server.close()

    asyncio.run(run())


@pytest.mark.parametrize("streams", [False, True])
def test_tools_are_listed_over_pages_and_called(streams: bool):
    async def script(server: McpServer) -> None:
        find, cancel = await server.tools()
        assert (find.name, cancel.name, find.parameters) == ("shop_find_order", "shop_cancel_order", SCHEMA)
        assert await find.run({"number": 7}) == "Order 7 is sent."

    program = Program(streams=streams)
    connected(program, script)
    assert [method for method, _ in program.asked[:2]] == ["initialize", "notifications/initialized"]
    assert program.asked[-1] == ("tools/call", {"name": "find_order", "arguments": {"number": 7}})


def test_only_tools_that_the_operator_allows_are_offered_and_one_that_does_not_exist_is_refused():
    async def script(server: McpServer) -> None:
        assert [tool.name for tool in await server.tools()] == ["shop_cancel_order"]

    async def missing(server: McpServer) -> None:
        with pytest.raises(ValueError, match=r"mcp_servers.shop.tools=\['pay'\] must be among.*find_order"):
            await server.tools()

    connected(Program(), script, tools=["cancel.order"])
    connected(Program(), missing, tools=["pay"])


def test_a_tool_that_fails_says_why():
    async def script(server: McpServer) -> None:
        find, _ = await server.tools()
        for number, cause in ((-1, "no such order"), (0, "Zero is no number")):
            with pytest.raises(CallError, match=cause):
                await find.run({"number": number})

    connected(Program(), script)


def test_a_server_that_was_started_anew_is_asked_again_in_a_new_session():
    program = Program()

    async def script(server: McpServer) -> None:
        find, _ = await server.tools()
        program.session = "second"
        assert await find.run({"number": 7}) == "Order 7 is sent."

    connected(program, script)


def test_the_token_comes_from_the_environment(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("GWM_TEST_MCP", "secret")
    program = Program()

    async def script(server: McpServer) -> None:
        await server.tools()

    connected(program, script, key_variable="GWM_TEST_MCP")
    assert {each["Authorization"] for each in program.headers} == {"Bearer secret"}


def test_no_redirect_leads_to_another_host():
    reached: list[str] = []

    async def inner(request: web.Request) -> web.Response:
        reached.append(request.path)
        return web.Response()

    async def run() -> None:
        async with site(inner) as elsewhere:

            async def redirect(request: web.Request) -> web.Response:
                return web.Response(status=307, headers={"Location": elsewhere})

            async with site(redirect) as url:
                server = McpServer("shop", McpOptions(url=url))
                with pytest.raises(ValueError, match="initialize was answered with status 307"):
                    await server.tools()
                await server.close()

    asyncio.run(run())
    assert reached == []


@pytest.mark.parametrize("body", [b"<html>", b"{", b"[1]", b"x" * 1_000_001])
def test_what_is_no_answer_is_told_by_the_name_of_the_server(body: bytes):
    async def answer(request: web.Request) -> web.Response:
        return web.Response(body=body)

    async def run() -> None:
        async with site(answer) as url:
            server = McpServer("shop", McpOptions(url=url))
            with pytest.raises(ValueError, match=r"mcp_servers.shop: (initialize was answered|The answer has more)"):
                await server.tools()
            await server.close()

    asyncio.run(run())
