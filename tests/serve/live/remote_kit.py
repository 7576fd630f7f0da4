"""A server that speaks OpenAI's API as a test wants it to, on a port of this machine."""

import contextlib
import json
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

from aiohttp import web

Reply = Callable[[web.Request, dict[str, Any]], Awaitable[web.StreamResponse]]


class Remote:
    """Answers every request by `reply`, and keeps what it was asked."""

    def __init__(self, reply: Reply) -> None:
        self.reply, self.asked = reply, list[dict[str, Any]]()
        self.app = web.Application()
        self.app.router.add_post("/v1/{path:.*}", self._answer)

    async def _answer(self, request: web.Request) -> web.StreamResponse:
        if request.content_type == "application/json":
            asked = await request.json()
        else:
            form = await request.post()
            asked = {name: part.file.read() if isinstance(part, web.FileField) else part for name, part in form.items()}
        self.asked.append(asked)
        return await self.reply(request, asked)

    @contextlib.asynccontextmanager
    async def serving(self) -> AsyncIterator[str]:
        runner = web.AppRunner(self.app, shutdown_timeout=0, handler_cancellation=True)
        await runner.setup()
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        try:
            yield f"http://127.0.0.1:{runner.addresses[0][1]}/v1"
        finally:
            await runner.cleanup()


def streamed(*deltas: dict[str, Any] | str, finish: str | None = "stop", done: bool = True) -> web.Response:
    """An answer of a language model, a chunk for each delta."""
    parts = [{"content": delta} if isinstance(delta, str) else delta for delta in deltas]
    choices = [{"index": 0, "delta": part, "finish_reason": None} for part in parts]
    if finish:
        choices.append({"index": 0, "delta": {}, "finish_reason": finish})
    lines = [json.dumps({"id": "1", "object": "chat.completion.chunk", "model": "m", "choices": [c]}) for c in choices]
    text = "".join(f"data: {line}\n\n" for line in [*lines, *(["[DONE]"] if done else [])])
    return web.Response(text=text, content_type="text/event-stream")


def refusal(status: int, message: str, headers: dict[str, str] | None = None, **more: str) -> web.Response:
    return web.json_response({"error": {"message": message, **more}}, status=status, headers=headers)


def always(response: Callable[[], web.Response]) -> Reply:
    async def reply(request: web.Request, asked: dict[str, Any]) -> web.StreamResponse:
        return response()

    return reply
