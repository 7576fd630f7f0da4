"""A session that a page watches: the connection, which may break and come back, and changes of the stream."""

import asyncio
import logging
import time
from abc import abstractmethod
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

from aiortc import MediaStreamTrack, RTCIceServer

from serve.live.avatar.voice_buffers import Sound
from serve.live.http.ice import IceServers
from serve.live.http.peer import Peer
from serve.live.http.receipts import Changes
from serve.live.http.refusals import NotHereError
from serve.live.http.session import Session, SessionParts
from serve.live.http.tracks import FaceTrack
from serve.live.log_lines import SESSION
from serve.live.speech.turns import Event

log = logging.getLogger(__name__)

ANSWER_KEPT_S = 15.0  # for an offer that is sent again
LOST_PICTURE = "The picture stands still for a moment. You can go on talking."


@dataclass(frozen=True, slots=True)
class Answered:
    """The last offer that was answered."""

    key: str
    offer: str
    answer: str
    at_s: float

    def to(self, key: str, offer: str) -> bool:
        """Whether this is the same request, again within seconds."""
        return (key, offer) == (self.key, self.offer) and time.monotonic() - self.at_s < ANSWER_KEPT_S


@runtime_checkable
class Transport(Protocol):
    """A connection to the visitor; it calls the `on_` methods of its conversation."""

    def send(self, message: dict[str, Any]) -> None: ...

    async def channel_opens(self, within_s: float) -> bool:
        """Wait until messages can be sent; whether they can."""
        ...

    def is_silent(self, for_s: float) -> bool:
        """Whether nothing has come for so long from a visitor who is still there by all other signs."""
        ...

    async def close(self) -> None: ...


class PageSession(Session):
    """`start` it, and `connect` a page with the key, or `attach` a transport, as often as the network breaks."""

    def __init__(self, parts: SessionParts, *, ice_servers: IceServers) -> None:
        super().__init__(parts)
        self._ice_servers = ice_servers
        self.changes = Changes(self.performer, send=self.send, spawn=self.spawn)
        self._face_track: FaceTrack | None = None
        self._stalls = self._losses = 0  # that were reported
        self._transport: Transport | None = None
        self._answered: Answered | None = None
        self._connecting = asyncio.Lock()

    def ice_servers(self) -> list[RTCIceServer]:
        """Of either end, with credentials that outlast the session."""
        seconds = self.timeouts.connect_s + self.timeouts.session_s
        return self._ice_servers.servers(self.id, seconds=seconds)

    @abstractmethod
    def tracks(self) -> tuple[list[MediaStreamTrack], FaceTrack]:
        """What a transport sends, and the picture among it."""

    async def connect(self, key: str, offer: str) -> tuple[str, str]:
        """The SDP answer, and the key for the next connection: each opens one, which replaces the one before.

        Asked the same again before the connection opens, the answer is the same: the first may have got lost on its
        way. aiortc knows no ICE restart.

        Raises:
            WrongKeyError: the key was used before, or never given out.
            NotHereError: the session ended meanwhile.
            ValueError: the offer cannot be answered. A session without a connection ends with it.
        """
        async with self._connecting:  # the same offer may come again before it is answered
            self.check_open()
            if self._answered and self._answered.to(key, offer):
                return self._answered.answer, self.key.value
            self.key.check(key)
            try:
                answer = await self._connect(offer)
            except ValueError:
                if not self._transport:
                    await self.close("The offer could not be answered.")
                raise
            self.key.use(key)
            self._answered = Answered(key, offer, answer, time.monotonic())
            return answer, self.key.value

    async def _connect(self, offer: str) -> str:
        """Put a new connection in the place of the old one, which stays until the new one can be answered."""
        SESSION.set(self.id)
        tracks, face = self.tracks()
        peer = Peer(
            tracks,
            engine_rate=self.timing.sample_rate,
            ice_servers=self.ice_servers(),
            on_microphone=self.on_microphone,
            on_message=self.on_message,
            on_picture=self.on_picture,
            on_connected=lambda: self.on_connected(peer),
            on_channel=lambda: self.on_channel(peer),
            on_gone=lambda: self.on_gone(peer),
        )
        try:
            answer = await peer.answer(offer)
            await self.attach(peer, face)
        except (ValueError, NotHereError):
            await peer.close()
            raise
        return answer

    async def attach(self, transport: Transport, face: FaceTrack) -> None:
        """Put a transport that can be used in the place of the one before.

        Raises:
            NotHereError: the session has ended.
        """
        self.check_open()
        old, self._transport, self._face_track = self._transport, transport, face
        if old:
            await old.close()

    def _announce_end(self, reason: str) -> None:
        if self._transport:
            self._transport.send({"type": "ended", "message": reason})

    async def _disconnect(self) -> None:
        if self._transport:
            await self._transport.close()

    def _end_reason(self) -> str:
        if self._transport and self._transport.is_silent(self.timeouts.reconnect_s):
            return "Nobody is connected."
        return super()._end_reason()

    def _report(self) -> None:
        """Numbers, for the page and for operators."""
        playout = self.performer.playout
        self.gauges.stalls.inc(playout.stalls - self._stalls)
        if losses := self.performer.losses - self._losses:
            self.gauges.losses.inc(losses)
            self.on_event({"type": "error", "message": LOST_PICTURE})
        self._stalls, self._losses = playout.stalls, self.performer.losses
        if self._transport and self._face_track:
            numbers = {
                "lead_ms": round(1000 * playout.queued_samples / self.timing.sample_rate),
                "stalls": playout.stalls,
                "frames": self._face_track.sent,
                "dropped": self._face_track.dropped,
            }
            self._transport.send({"type": "numbers", **numbers})

    def on_connected(self, transport: Transport) -> None:
        if transport is self._transport:
            self._answered = None
            self.connected()

    def on_channel(self, transport: Transport) -> None:
        if transport is self._transport:
            transport.send({"type": "state", "state": "listening"})

    def on_gone(self, transport: Transport) -> None:
        if transport is self._transport:
            self.disconnected()

    async def on_microphone(self, narrow: bytes, wide: Sound) -> None:
        """Sound of the visitor, at 16 kHz and at the engine's rate: not heard, unless a session listens."""

    def on_picture(self, message: bytes) -> None:
        """A picture that the visitor shows.

        Raises:
            ValueError: nobody looks at it.
        """
        raise ValueError("Pictures are not looked at here.")

    def send(self, message: dict[str, Any]) -> None:
        if self._transport:
            self._transport.send(message)

    def on_event(self, event: Event) -> None:
        """Tell the page, and whoever keeps account of the session."""
        if self.witness:
            self.witness.said(event)
        self.send(event)

    def on_message(self, message: dict[str, Any]) -> None:
        if not self.changes.handle(message) and message.get("type") == "END_CALL":
            self.spawn(self.close("You have left."))
