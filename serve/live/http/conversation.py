"""A session that talks: engine, agent, and whatever carries them to a visitor."""

import asyncio
import logging
import time
from collections.abc import Coroutine
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

from serve.live.avatar.voice_buffers import Sound
from serve.live.http.admission import Rate
from serve.live.http.peer import Peer
from serve.live.http.receipts import Changes
from serve.live.http.refusals import FullError, NotHereError
from serve.live.http.session import Session, SessionParts
from serve.live.http.tracks import FaceTrack, VoiceTrack
from serve.live.log_lines import SESSION
from serve.live.speech.agent import Agent, Services, TurnTaking
from serve.live.speech.tools import BackendPlace, Call
from serve.live.speech.turns import Event

log = logging.getLogger(__name__)

CHANNEL_S = 1.0  # for the channel of messages, once sound and picture are connected
ANSWER_KEPT_S = 15.0  # for an offer that is sent again
TEXTS_PER_MINUTE = 20
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


class Conversation(Session):
    """`start` it, and `connect` a page with the key, or `attach` a transport, as often as the network breaks."""

    def __init__(
        self,
        parts: SessionParts,
        services: Services,
        *,
        turn_taking: TurnTaking,
        ice_servers: list[str],
    ) -> None:
        super().__init__(parts)
        self.ice_servers = ice_servers
        self.agent = Agent(
            services,
            self.performer,
            instruction=self.character.instruction,
            turn_taking=turn_taking,
            on_event=self._on_event,
        )
        self.agent.on_call = self._on_call
        self.backend = BackendPlace()  # answers calls of tools
        self.changes = Changes(self.face, send=self.send, spawn=self.spawn)
        self._face_track: FaceTrack | None = None
        self._texts = Rate(TEXTS_PER_MINUTE, 60.0)
        self._greeted = False
        self._stalls = self._losses = 0  # that were reported
        self._transport: Transport | None = None
        self._answered: Answered | None = None
        self._connecting = asyncio.Lock()

    def _work(self) -> list[Coroutine[Any, Any, None]]:
        return [self.agent.run()]

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
        voice, face = self.tracks()
        peer = Peer(
            [voice, face],
            engine_rate=self.timing.sample_rate,
            ice_servers=self.ice_servers,
            on_microphone=self.on_microphone,
            on_message=self.on_message,
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

    def tracks(self) -> tuple[VoiceTrack, FaceTrack]:
        """What a transport sends."""
        face = FaceTrack(self.timing.sample_rate)
        return VoiceTrack(self.performer.playout, face, self.timing.sample_rate), face

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
            self._on_event({"type": "error", "message": LOST_PICTURE})
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
            self.spawn(self._greet())

    def on_channel(self, transport: Transport) -> None:
        if transport is self._transport:
            transport.send({"type": "state", "state": "listening"})

    async def _greet(self) -> None:
        """Once, when captions can be sent; a client without a channel for them hears it all the same."""
        if self._greeted or not self.character.start_script:
            return
        self._greeted = True
        if self._transport:
            await self._transport.channel_opens(CHANNEL_S)
        await self.agent.speak(self.character.start_script)

    def on_gone(self, transport: Transport) -> None:
        if transport is self._transport:
            self.disconnected()

    async def on_microphone(self, narrow: bytes, wide: Sound) -> None:
        self.performer.push_microphone(wide)
        await self.agent.push_microphone(narrow)

    def send(self, message: dict[str, Any]) -> None:
        if self._transport:
            self._transport.send(message)

    def on_message(self, message: dict[str, Any]) -> None:
        if self.changes.handle(message):
            return
        if message.get("type") == "END_CALL":
            return self.spawn(self.close("You have left."))
        text = message.get("text")
        if not (message.get("type") == "text" and isinstance(text, str) and text.strip()):
            return
        try:
            self._texts.check(self.id)  # each asks the language model, which may cost money
        except FullError as error:
            return self._on_event({"type": "error", "message": str(error)})
        if self.witness:
            self.witness.said({"type": "caption", "who": "user", "text": text.strip()})
        self.spawn(self.agent.read(text.strip()))

    def _on_call(self, call: Call) -> None:
        log.info("tool %s: %s after %d ms", call.name, call.error or "answered", call.duration_ms)
        if self.witness:
            self.witness.called(call)

    def _on_event(self, event: Event) -> None:
        if event["type"] == "latency":
            self.gauges.count_turn(event)
            log.info("answered after %s ms", event["total_ms"], extra={"latency": event})
        if event["type"] == "interrupted":
            self.gauges.interruptions.inc()
        if self.witness:
            self.witness.said(event)
        self.send(event)
