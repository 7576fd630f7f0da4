"""The routes of the room: where clients of LiveKit ask whether they may join, and join."""

import asyncio
from collections import Counter

from aiohttp import web

from serve.live.http.admission import Admission
from serve.live.http.conversation import Conversation
from serve.live.http.refusals import FullError
from serve.live.log_lines import SESSION
from serve.live.room.backend import Backend
from serve.live.room.descriptions import SILENT_S, Wish, leave
from serve.live.room.tokens import Grant, Tokens
from serve.live.room.visitor import Visitor

MESSAGE_BYTES = 256_000
CLIENTS = 8  # in one room at a time


class Door:
    """`app` is mounted at /rtc. The token opens a room; a page of any site may use it."""

    def __init__(self, admission: Admission, tokens: Tokens) -> None:
        self.admission, self.tokens = admission, tokens
        self._inside: Counter[str] = Counter()
        self.app = web.Application()
        self.app.router.add_get("", self.join)
        self.app.router.add_get("/v1", self.join)
        self.app.router.add_get("/validate", self.validate)
        self.app.router.add_get("/v1/validate", self.validate)

    async def validate(self, request: web.Request) -> web.Response:
        """Whether `join` would let the client in, with a sentence where it would not."""
        self._admit(request)
        return web.Response(text="success", headers={"Access-Control-Allow-Origin": "*"})

    async def join(self, request: web.Request) -> web.WebSocketResponse:
        """The whole stay of one client.

        Raises:
            WrongKeyError: the token is none of this server's.
            NotHereError: the session is over.
            FullError: too many clients are in this room.
            ValueError: no websocket is asked for, or the request to join cannot be read.
        """
        grant, conversation = self._admit(request)
        wish = Wish.of(request.query, one_connection=request.path.endswith("/v1"))
        socket = web.WebSocketResponse(max_msg_size=MESSAGE_BYTES, receive_timeout=SILENT_S, timeout=2.0)
        if not socket.can_prepare(request):
            raise ValueError("a room is a websocket: connect with Upgrade: websocket.")
        if self._inside[grant.room] >= CLIENTS:
            raise FullError(f"{CLIENTS} clients are in this room.", reason="room", retry_after_s=5)
        self._inside[grant.room] += 1
        try:
            await socket.prepare(request)
            SESSION.set(conversation.id)
            if wish.resumes:  # what it had is gone with its websocket: it joins anew
                await socket.send_bytes(leave("RECONNECT", "STATE_MISMATCH").SerializeToString())
                await socket.close()
            elif grant.hidden:
                await _serve_backend(Backend(conversation, grant, wish), socket, request)
            else:
                await Visitor(conversation, grant, wish).serve(socket, request)
        finally:
            self._inside[grant.room] -= 1
            self._inside += Counter()  # forget rooms that are empty
        return socket

    def _admit(self, request: web.Request) -> tuple[Grant, Conversation]:
        scheme, _, text = request.headers.get("Authorization", "").partition(" ")
        token = request.query.get("access_token") or (text.strip() if scheme.lower() == "bearer" else "")
        grant = self.tokens.read(token)
        conversation = self.admission.get(grant.room, Conversation)
        conversation.check_open()
        return grant, conversation


async def _serve_backend(backend: Backend, socket: web.WebSocketResponse, request: web.Request) -> None:
    ending = asyncio.create_task(backend.ends_with_conversation())
    try:
        await backend.serve(socket, request)
    finally:
        ending.cancel()
