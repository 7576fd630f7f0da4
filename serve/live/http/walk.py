"""A session in a world: pictures that answer to actions, and no sound."""

import asyncio
import time
from collections.abc import Coroutine
from typing import Any

from aiortc import MediaStreamTrack

from serve.live.http.ice import IceServers
from serve.live.http.page_session import PageSession, Transport
from serve.live.http.session import SessionParts
from serve.live.http.tracks import LATE_S, FaceTrack


class Walk(PageSession):
    """Its own clock takes a frame after the other, from the first connection on, and stops in a
    pause: where there is sound, that keeps the time."""

    def __init__(self, parts: SessionParts, *, ice_servers: IceServers) -> None:
        super().__init__(parts, ice_servers=ice_servers)
        self._watched, self._running = asyncio.Event(), asyncio.Event()
        self._running.set()
        self.performer.redoes = True  # keys hold from the next frame on

    def _work(self) -> list[Coroutine[Any, Any, None]]:
        return [self._play()]

    def tracks(self) -> tuple[list[MediaStreamTrack], FaceTrack]:
        face = FaceTrack(self.timing.sample_rate)
        return [face], face

    def on_connected(self, transport: Transport) -> None:
        super().on_connected(transport)
        self._watched.set()

    def on_message(self, message: dict[str, Any]) -> None:
        """Beside what every page may say, {"type": "stream.pause", "paused": whether the world stands still}."""
        if message.get("type") != "stream.pause":
            return super().on_message(message)
        if message.get("paused"):
            self._running.clear()
        else:
            self._running.set()

    async def _play(self) -> None:
        await self._watched.wait()
        frame_s, sample = self.timing.frame_samples / self.timing.sample_rate, 0
        due_s = time.monotonic()
        while True:
            await self._running.wait()
            now_s = time.monotonic()
            if now_s - due_s > LATE_S:  # a pause, or the process stood still: no burst of frames that nobody wants
                sample += self.timing.frame_samples * round((now_s - due_s) / frame_s)  # else a browser waits longer
                due_s = now_s
            await asyncio.sleep(due_s - now_s)
            for offset, pixels in self.performer.playout.advance(self.timing.frame_samples).frames:
                if self._face_track:
                    self._face_track.show(sample + offset, pixels, due_s=due_s)
            sample, due_s = sample + self.timing.frame_samples, due_s + frame_s
