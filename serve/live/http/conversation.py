"""A session that talks: engine, agent, and whatever carries them to a visitor."""

import logging
from collections.abc import Coroutine
from typing import Any

from aiortc import MediaStreamTrack

from serve.live.avatar.voice_buffers import Sound
from serve.live.http.admission import Rate
from serve.live.http.ice import IceServers
from serve.live.http.page_session import PageSession, Transport
from serve.live.http.refusals import FullError
from serve.live.http.session import SessionParts
from serve.live.http.tracks import FaceTrack, VoiceTrack
from serve.live.speech.agent import Agent, Services, TurnTaking
from serve.live.speech.tools import BackendPlace, Call
from serve.live.speech.turns import Event
from serve.live.vision.pictures import read_picture
from serve.live.vision.sight import Sight, Vision

log = logging.getLogger(__name__)

CHANNEL_S = 1.0  # for the channel of messages, once sound and picture are connected
TEXTS_PER_MINUTE = 20


class Conversation(PageSession):
    """A character that listens and answers, with sound."""

    def __init__(
        self,
        parts: SessionParts,
        services: Services,
        *,
        turn_taking: TurnTaking,
        ice_servers: IceServers,
        vision: Vision | None = None,
    ) -> None:
        """vision: what is done with pictures that the visitor shows; None: they are refused."""
        super().__init__(parts, ice_servers=ice_servers)
        self.agent = Agent(
            services,
            self.performer,
            instruction=self.character.instruction,
            turn_taking=turn_taking,
            on_event=self.on_event,
        )
        self.agent.on_call, self.agent.observer.trace = self._on_call, parts.trace
        self.backend = BackendPlace()  # answers calls of tools
        allowed = vision and vision.within(self.character.vision)
        self.sight = None if allowed is None else Sight(allowed, on_event=self.on_event, spawn=self.spawn)
        self.agent.see(self.sight)
        self._texts = Rate(TEXTS_PER_MINUTE, 60.0)
        self._greeted = False

    def _work(self) -> list[Coroutine[Any, Any, None]]:
        return [self.agent.run()]

    def tracks(self) -> tuple[list[MediaStreamTrack], FaceTrack]:
        face = FaceTrack(self.timing.sample_rate)
        return [VoiceTrack(self.performer.playout, face, self.timing.sample_rate), face], face

    def on_connected(self, transport: Transport) -> None:
        super().on_connected(transport)
        if transport is self._transport:
            self.spawn(self._greet())

    def on_channel(self, transport: Transport) -> None:
        super().on_channel(transport)
        if transport is self._transport and self.sight is not None:
            transport.send(self.sight.vision.offered())

    async def attach(self, transport: Transport, face: FaceTrack) -> None:
        """As `PageSession.attach`. What was shown is forgotten: who comes may be somebody else."""
        await super().attach(transport, face)
        if self.sight is not None:
            self.sight.clear()

    def on_picture(self, message: bytes) -> None:
        """As `PageSession.on_picture`."""
        if self.sight is None:
            return super().on_picture(message)
        self.sight.take(read_picture(message))

    async def _greet(self) -> None:
        """Once, when captions can be sent; a client without a channel for them hears it all the same."""
        if self._greeted or not self.character.start_script:
            return
        self._greeted = True
        if self._transport:
            await self._transport.channel_opens(CHANNEL_S)
        await self.agent.speak(self.character.start_script)

    async def on_microphone(self, narrow: bytes, wide: Sound) -> None:
        self.performer.push_microphone(wide)
        await self.agent.push_microphone(narrow)

    def on_message(self, message: dict[str, Any]) -> None:
        text = message.get("text")
        if self.sight is not None and message.get("type") == "vision.on":
            return self.sight.show(message.get("source"))
        if self.sight is not None and message.get("type") == "vision.off":
            return self.sight.hide(message.get("source"))
        if not (message.get("type") == "text" and isinstance(text, str) and text.strip()):
            return super().on_message(message)
        try:
            self._texts.check(self.id)  # each asks the language model, which may cost money
        except FullError as error:
            return self.on_event({"type": "error", "message": str(error)})
        if self.witness:
            self.witness.said({"type": "caption", "who": "user", "text": text.strip()})
        self.spawn(self.agent.read(text.strip()))

    def _on_call(self, call: Call) -> None:
        log.info("tool %s: %s after %d ms", call.name, call.error or "answered", call.duration_ms)
        if self.witness:
            self.witness.called(call)

    def on_event(self, event: Event) -> None:
        if event["type"] == "latency":
            self.gauges.count_turn(event)
            log.info("answered after %s ms", event["total_ms"], extra={"latency": event})
        if event["type"] == "interrupted":
            self.gauges.interruptions.inc()
        super().on_event(event)
