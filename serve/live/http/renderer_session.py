"""The face alone, for people with an agent of their own: speech in over a websocket, frames and sound out in time.

Text messages are JSON. To the server: {"type": "agent.speak", "audio": base64 of 16-bit mono at the engine's rate},
{"type": "agent.speak_end"}, {"type": "agent.interrupt"}, {"type": "user.audio", "audio": ...}, {"type":
"session.keep_alive"}, and changes of the stream (`serve.live.avatar.changes`). From the server: {"type":
"session.ready", "sample_rate", "frame_samples", "width", "height"}, {"type": "agent.spoken"} when the end of speech has
been heard, receipts (`serve.live.http.receipts`), {"type": "error", "message"}.

A binary message is one frame: 8 bytes of its sample (little-endian), 4 bytes of the length of its JPEG, the JPEG (of
length 0 where the picture stays), and the samples until the next frame.
"""

import asyncio
import base64
import binascii
import io
import json
import logging
import math
import struct
import time
from typing import Any

import numpy as np
from aiohttp import WSMsgType, web
from PIL import Image

from gwm.media.sound import from_pcm
from serve.live.avatar.playout import Pixels, Slice
from serve.live.avatar.voice_buffers import Sound
from serve.live.http.receipts import Changes
from serve.live.http.session import Session, SessionParts

log = logging.getLogger(__name__)

MESSAGE_BYTES = 1_000_000
SPEECH_S = 120.0  # that may lie ready; an agent that is further ahead has to wait
JPEG_QUALITY = 90
WAITING_MESSAGES = 100  # answers that a client has not read
MESSAGES_PER_S, BURST_MESSAGES = 200, 50  # of a client; speech in parts of 40 ms takes 25 a second
UNREAD_S, CLOSING_S = 5.0, 2.0
CLOSE_BYTES = 120  # of a reason in a websocket's close frame
HEADER = struct.Struct("<QI")


class Renderer(Session):
    """One face behind a websocket; it ends with its connection."""

    def __init__(self, parts: SessionParts) -> None:
        super().__init__(parts)
        self._outgoing: asyncio.Queue[dict[str, Any]] = asyncio.Queue(WAITING_MESSAGES)
        self.changes = Changes(self.performer, send=self._reply, spawn=self.spawn)
        self._socket: web.WebSocketResponse | None = None
        self._reason = ""

    async def serve(self, key: str, request: web.Request) -> web.WebSocketResponse:
        """The whole connection.

        Raises:
            WrongKeyError: the key was used before, or never given out.
            ValueError: the request does not ask for a websocket.
        """
        self.key.check(key)
        socket = web.WebSocketResponse(
            max_msg_size=MESSAGE_BYTES, heartbeat=self.timeouts.reconnect_s, timeout=CLOSING_S
        )
        if not socket.can_prepare(request):
            raise ValueError("the renderer is a websocket: connect with Upgrade: websocket.")
        self.key.use(key)  # before the first await: of two requests with the same key one is served
        try:
            await socket.prepare(request)
            self._socket = socket
            self.connected()
            await self._converse(socket)
        finally:
            await self.close("the connection ended")
        return socket

    async def _converse(self, socket: web.WebSocketResponse) -> None:
        self.spawn(self._send(socket))
        due_s = -math.inf
        async for message in socket:
            due_s = max(due_s, time.monotonic() - BURST_MESSAGES / MESSAGES_PER_S) + 1 / MESSAGES_PER_S
            await asyncio.sleep(due_s - time.monotonic())  # a client that sends faster waits in its own buffers
            if message.type is WSMsgType.TEXT and (wrong := self._handle(message.data)):
                self._reply({"type": "error", "message": wrong})

    def _reply(self, message: dict[str, Any]) -> None:
        """Send it in order with the frames. A client that does not read its answers is disconnected."""
        try:
            self._outgoing.put_nowait(message)
        except asyncio.QueueFull:
            self.spawn(self.close(f"{WAITING_MESSAGES} messages were not read"))

    def _report(self) -> None: ...

    def _announce_end(self, reason: str) -> None:
        self._reason = reason  # the close frame carries it

    async def _disconnect(self) -> None:
        if self._socket and not self._socket.closed:
            await self._socket.close(message=self._reason.encode()[:CLOSE_BYTES])

    def _handle(self, text: str) -> str:
        """What is wrong with a message, or nothing."""
        try:
            message: Any = json.loads(text)
            kind = message["type"]
            if self.changes.handle(message):
                return ""
            if kind == "agent.speak":
                return self._speak(_samples(message["audio"]))
            if kind == "user.audio":
                self.performer.push_microphone(_samples(message["audio"]))
            elif kind == "agent.speak_end":
                self.performer.cue(self._spoken, generation=self.performer.generation)
            elif kind == "agent.interrupt":
                self.performer.interrupt()
            elif kind != "session.keep_alive":
                return f"type {kind!r} is not known."
        except (ValueError, KeyError, TypeError, binascii.Error) as error:
            return f"A message must be JSON with a type, and audio in base64 ({type(error).__name__}: {error})."
        return ""

    def _speak(self, voice: Sound) -> str:
        queue = self.performer.speech_queue
        if queue.waiting_samples + len(voice) > SPEECH_S * self.timing.sample_rate:
            return f"More than {SPEECH_S:.0f} s of speech lie ready: send the rest when some of it has been said."
        self.performer.say(voice, generation=self.performer.generation)
        return ""

    def _spoken(self) -> None:
        self._reply({"type": "agent.spoken"})

    async def _send(self, socket: web.WebSocketResponse) -> None:
        """The one writer of the connection: messages in order with the frames, until the client stops reading."""
        height, width, _ = self.character.picture.shape
        sizes = {"sample_rate": self.timing.sample_rate, "frame_samples": self.timing.frame_samples}
        start_s, sent, reason = time.monotonic(), 0, "the connection ended"
        try:
            await socket.send_json({"type": "session.ready", **sizes, "width": width, "height": height})
            while True:
                while not self._outgoing.empty():
                    await asyncio.wait_for(socket.send_json(self._outgoing.get_nowait()), UNREAD_S)
                part = self.performer.playout.advance(self.timing.frame_samples)
                await asyncio.wait_for(socket.send_bytes(packed(sent, part)), UNREAD_S)
                sent += self.timing.frame_samples
                await asyncio.sleep(start_s + sent / self.timing.sample_rate - time.monotonic())
        except TimeoutError:
            reason = f"nothing was read for {UNREAD_S:.0f} s"
        except ConnectionError:
            pass  # the client has left
        await self.close(reason)


def packed(sample: int, part: Slice) -> bytes:
    """A binary message."""
    picture = _jpeg(part.frames[0][1]) if part.frames else b""
    return HEADER.pack(sample, len(picture)) + picture + part.voice.astype("<i2").tobytes()


def _jpeg(pixels: Pixels) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(np.ascontiguousarray(pixels)).save(buffer, "JPEG", quality=JPEG_QUALITY)
    return buffer.getvalue()


def _samples(text: str) -> Sound:
    return from_pcm(base64.b64decode(text, validate=True))
