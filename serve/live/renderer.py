"""The face alone, for people with an agent of their own: speech in over a websocket, frames and sound out in time.

Text messages are JSON. To the server: {"type": "agent.speak", "audio": base64 of 16-bit mono at the engine's rate},
{"type": "agent.speak_end"}, {"type": "agent.interrupt"}, {"type": "user.audio", "audio": ...},
{"type": "session.keep_alive"}. From the server: {"type": "session.ready", "sample_rate", "frame_samples", "width",
"height"}, {"type": "agent.spoken"} when the end of speech has been heard, {"type": "error", "message"}.

A binary message is one frame: 8 bytes of its sample (little-endian), 4 bytes of the length of its JPEG, the JPEG (of
length 0 where the picture stays), and the samples until the next frame.
"""

import asyncio
import base64
import binascii
import io
import json
import logging
import struct
import time
from collections.abc import Callable
from typing import Any

import numpy as np
from aiohttp import WSMsgType, web
from PIL import Image

from serve.live.characters import Character
from serve.live.gauges import Gauges
from serve.live.guest import Guest
from serve.live.performer import Beat, Face, Performer
from serve.live.playout import Pixels, Slice
from serve.live.session import Patience
from serve.live.sound import Sound

log = logging.getLogger(__name__)

MESSAGE_BYTES = 1_000_000
SPEECH_S = 120.0  # that may lie ready; an agent that is further ahead has to wait
JPEG_QUALITY = 90
HEADER = struct.Struct("<QI")


class Renderer(Guest):
    """One face behind a websocket; it ends with its connection, or when nobody comes."""

    def __init__(
        self,
        session_id: str,
        character: Character,
        face: Face,
        *,
        beat: Beat,
        patience: Patience,
        gauges: Gauges,
        on_end: Callable[[], None],
    ) -> None:
        super().__init__(session_id)
        self.character, self.face, self.beat = character, face, beat
        self.patience, self.on_end = patience, on_end
        self.performer = Performer(face, beat, on_step=gauges.step_ms.observe)
        self._tasks: list[asyncio.Task[None]] = []
        self._connected = False

    def start(self) -> None:
        self._tasks = [asyncio.create_task(self.performer.run()), asyncio.create_task(self._expect())]

    async def serve(self, key: str, request: web.Request) -> web.WebSocketResponse:
        """The whole connection.

        Raises:
            WrongKeyError: the key was used before, or never given out.
        """
        self.key.use(key)
        self._connected = True
        socket = web.WebSocketResponse(max_msg_size=MESSAGE_BYTES, heartbeat=self.patience.away_s)
        await socket.prepare(request)
        sending = asyncio.create_task(self._send(socket))
        try:
            async for message in socket:
                if message.type is WSMsgType.TEXT and (wrong := self._obey(message.data, socket)):
                    await socket.send_json({"type": "error", "message": wrong})
        finally:
            sending.cancel()
            await self.close("the connection ended")
        return socket

    async def _end(self, reason: str) -> None:
        log.info("renderer ends: %s", reason)
        tasks = [*self._tasks, *self.errands]
        for task in tasks:
            task.cancel()
        await asyncio.wait(tasks)
        await self.face.stop()
        self.on_end()

    def _obey(self, text: str, socket: web.WebSocketResponse) -> str:
        """What is wrong with a message, or nothing."""
        try:
            message: Any = json.loads(text)
            kind = message["type"]
            if kind == "agent.speak":
                return self._speak(_samples(message["audio"]))
            if kind == "user.audio":
                self.performer.hear(_samples(message["audio"]))
            elif kind == "agent.speak_end":
                self.performer.mark(self._spoken(socket), generation=self.performer.generation)
            elif kind == "agent.interrupt":
                self.performer.interrupt()
            elif kind != "session.keep_alive":
                return f"type {kind!r} is not known."
        except (ValueError, KeyError, TypeError, binascii.Error) as error:
            return f"A message must be JSON with a type, and audio in base64 ({type(error).__name__}: {error})."
        return ""

    def _speak(self, voice: Sound) -> str:
        line = self.performer.line
        if line.said_samples - line.taken_samples + len(voice) > SPEECH_S * self.beat.sample_rate:
            return f"More than {SPEECH_S:.0f} s of speech lie ready: send the rest when some of it has been said."
        self.performer.say(voice, generation=self.performer.generation)
        return ""

    def _spoken(self, socket: web.WebSocketResponse) -> Callable[[], None]:
        def tell() -> None:
            self.do(socket.send_json({"type": "agent.spoken"}))

        return tell

    async def _send(self, socket: web.WebSocketResponse) -> None:
        side = self.character.portrait.shape[0]
        facts = {"sample_rate": self.beat.sample_rate, "frame_samples": self.beat.frame_samples}
        await socket.send_json({"type": "session.ready", **facts, "width": side, "height": side})
        start_s, sent = time.monotonic(), 0
        while True:
            part = self.performer.playout.advance(self.beat.frame_samples)
            await socket.send_bytes(packed(sent, part))
            sent += self.beat.frame_samples
            await asyncio.sleep(start_s + sent / self.beat.sample_rate - time.monotonic())

    async def _expect(self) -> None:
        await asyncio.sleep(self.patience.waiting_s)
        if not self._connected:
            await self.close("nobody connected")


def packed(sample: int, part: Slice) -> bytes:
    """A binary message."""
    picture = _jpeg(part.frames[0][1]) if part.frames else b""
    return HEADER.pack(sample, len(picture)) + picture + part.voice.astype("<i2").tobytes()


def _jpeg(pixels: Pixels) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(np.ascontiguousarray(pixels)).save(buffer, "JPEG", quality=JPEG_QUALITY)
    return buffer.getvalue()


def _samples(text: str) -> Sound:
    return np.frombuffer(base64.b64decode(text, validate=True), "<i2").astype(np.float32) / 2**15
