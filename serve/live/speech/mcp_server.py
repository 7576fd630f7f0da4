"""Tools of a server that speaks the Model Context Protocol over HTTP, which an operator has named.

Source: modelcontextprotocol.io, revision 2025-06-18, "Streamable HTTP": each request is a POST, answered by JSON or
by a stream of events that ends with the answer.
"""

import json
import os
import re
from typing import Any

import aiohttp

from serve.live.options import McpOptions
from serve.live.speech.tools import CallError, Tool

PROTOCOL = "2025-06-18"
SESSION = "Mcp-Session-Id"
ANSWER_BYTES = 1_000_000
MAX_PAGES = 10  # of a list of tools
NOT_IN_NAMES = re.compile(r"[^a-zA-Z0-9_-]")
NAME_CHARS = 64


class McpServer:
    """`tools` lists them; their calls go to the same server, whatever a language model asks for.

    No redirect is followed: the configuration alone says which hosts are asked.
    """

    def __init__(self, name: str, options: McpOptions) -> None:
        self.name, self.options = name, options
        self._session_id: str | None = None
        self._number = 0
        self._client: aiohttp.ClientSession | None = None

    async def tools(self) -> list[Tool]:
        """Those that the configuration allows.

        Raises:
            ValueError: the server does not answer as the protocol says, or lacks a tool that is named.
        """
        try:
            await self._begin()
            found = await self._listed()
        except CallError as error:
            raise ValueError(f"mcp_servers.{self.name}: {error}") from error
        wanted = self.options.tools
        if missing := sorted(set(wanted or ()) - {each["name"] for each in found}):
            raise ValueError(
                f"mcp_servers.{self.name}.tools={missing} must be among the server's tools: "
                f"{', '.join(each['name'] for each in found)}."
            )
        return [self._tool(each) for each in found if wanted is None or each["name"] in wanted]

    async def close(self) -> None:
        if self._client is not None:
            await self._client.close()
            self._client = None

    def _tool(self, listed: dict[str, Any]) -> Tool:
        async def run(arguments: dict[str, Any]) -> Any:
            return _content(await self._ask("tools/call", {"name": listed["name"], "arguments": arguments}))

        return Tool(
            name=NOT_IN_NAMES.sub("_", f"{self.name}_{listed['name']}")[:NAME_CHARS],
            description=str(listed.get("description") or listed["name"]),
            parameters=listed.get("inputSchema") or {},
            timeout_s=self.options.timeout_s,
            run=run,
        )

    async def _begin(self) -> None:
        self._session_id = None
        about = {"name": "gwm", "version": "1"}
        await self._ask("initialize", {"protocolVersion": PROTOCOL, "capabilities": {}, "clientInfo": about})
        await self._post({"jsonrpc": "2.0", "method": "notifications/initialized"})

    async def _listed(self) -> list[dict[str, Any]]:
        found, cursor = list[dict[str, Any]](), None
        for _ in range(MAX_PAGES):
            page = await self._ask("tools/list", {"cursor": cursor} if cursor else {})
            found += [each for each in page.get("tools", []) if isinstance(each, dict) and each.get("name")]
            cursor = page.get("nextCursor")
            if not cursor:
                break
        return found

    async def _ask(self, method: str, parameters: dict[str, Any]) -> dict[str, Any]:
        """The result of a request.

        Raises:
            CallError: there is none; the message says why.
        """
        self._number += 1
        number = self._number
        request = {"jsonrpc": "2.0", "id": number, "method": method, "params": parameters}
        status, text = await self._post(request)
        if status == 404 and self._session_id is not None:  # the server has forgotten the session
            await self._begin()
            status, text = await self._post(request)
        for message in _messages(text):
            if message.get("id") == number:
                if error := message.get("error"):
                    raise CallError(str(error.get("message") or error))
                return message.get("result") or {}
        raise CallError(f"{method} was answered with status {status} and without a result.")

    async def _post(self, message: dict[str, Any]) -> tuple[int, str]:
        headers = {"Accept": "application/json, text/event-stream", "MCP-Protocol-Version": PROTOCOL}
        if self._session_id:
            headers[SESSION] = self._session_id
        if self.options.key_variable:
            headers["Authorization"] = f"Bearer {os.environ.get(self.options.key_variable, '')}"
        if self._client is None:
            limits = aiohttp.ClientTimeout(total=self.options.timeout_s)
            self._client = aiohttp.ClientSession(timeout=limits, trust_env=False)
        try:
            async with self._client.post(
                self.options.url, json=message, headers=headers, allow_redirects=False
            ) as response:
                self._session_id = response.headers.get(SESSION, self._session_id)
                data = bytearray()
                async for piece in response.content.iter_any():
                    data += piece
                    if len(data) > ANSWER_BYTES:
                        raise CallError(f"The answer has more than {ANSWER_BYTES / 1e6:g} MB.")
                return response.status, data.decode(errors="replace")
        except (aiohttp.ClientError, TimeoutError, OSError) as error:
            raise CallError(f"{self.options.url} does not answer ({type(error).__name__}).") from error


def _messages(text: str) -> list[dict[str, Any]]:
    """Of a JSON body, or of the events of a stream."""
    events = re.split(r"\r?\n\r?\n", text)
    bodies = ["\n".join(re.findall(r"^data: ?(.*)$", event, re.MULTILINE)) for event in events]
    found = []
    for body in (text, *bodies):
        try:
            message = json.loads(body)
        except ValueError:
            continue
        if isinstance(message, dict):
            found.append(message)
    return found


def _content(result: dict[str, Any]) -> Any:
    """What a call gives a language model: structured content, or the text.

    Raises:
        CallError: the tool says that it has failed.
    """
    texts = [part.get("text", "") for part in result.get("content", []) if part.get("type") == "text"]
    text = "\n".join(texts)
    if result.get("isError"):
        raise CallError(text or "The tool has failed.")
    return result.get("structuredContent") or text
