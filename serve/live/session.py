"""One conversation: engine, agent and connection, from its key to its end."""

import asyncio
import logging
import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from serve.live.agent import Agent, Services, TurnTaking
from serve.live.characters import Character
from serve.live.gauges import Gauges
from serve.live.guest import Guest
from serve.live.lobby import Rate
from serve.live.log_lines import SESSION
from serve.live.peer import Peer
from serve.live.performer import Beat, Face, Performer
from serve.live.refusals import FullError
from serve.live.sound import Sound
from serve.live.tracks import FaceTrack, VoiceTrack
from serve.live.turns import Event

log = logging.getLogger(__name__)

REPORT_S = 1.0  # between two reports of numbers to the page
CLOSE_S = 5.0  # for a task to end by itself
TEXTS_PER_MINUTE = 20
LOST_PICTURE = "The picture stands still for a moment. You can go on talking."


@dataclass(frozen=True, slots=True, kw_only=True)
class Patience:
    """How long a session is kept."""

    waiting_s: float  # from its request to its first connection
    away_s: float  # without a connection, when the network was cut
    session_s: float  # altogether


class Session(Guest):
    """`start` it, `connect` a browser with the key, as often as the network breaks; it ends by itself or by `close`."""

    def __init__(
        self,
        session_id: str,
        character: Character,
        face: Face,
        services: Services,
        *,
        beat: Beat,
        turn_taking: TurnTaking,
        patience: Patience,
        ice_servers: list[str],
        gauges: Gauges,
        on_end: Callable[[], None],
    ) -> None:
        super().__init__(session_id)
        self.character, self.beat = character, beat
        self.patience, self.ice_servers, self.gauges, self.on_end = patience, ice_servers, gauges, on_end
        self.performer = Performer(face, beat, on_step=gauges.step_ms.observe)
        self.agent = Agent(
            services,
            self.performer,
            instruction=character.personality,
            turn_taking=turn_taking,
            on_event=self._on_event,
        )
        self.face = face
        self._voice_track: VoiceTrack | None = None
        self._face_track: FaceTrack | None = None
        self._tasks: list[asyncio.Task[None]] = []
        self._texts = Rate(TEXTS_PER_MINUTE, 60.0)
        self._deadline_s = time.monotonic() + patience.waiting_s
        self._heard_s = math.inf  # a microphone that is switched off sends silence; one that sends nothing is gone
        self._end_s = time.monotonic() + patience.session_s
        self._greeted = False
        self._stalls = self._losses = 0  # that were reported
        self._peer: Peer | None = None
        self._answered: tuple[tuple[str, str], tuple[str, str]] | None = None  # the last key and offer
        self._connecting = asyncio.Lock()

    def start(self) -> None:
        SESSION.set(self.id)  # for the tasks that begin here
        log.info("session opened with %s", self.character.key)
        for work in (self.performer.run(), self.agent.run(), self._watch()):
            self._tasks.append(asyncio.create_task(work))

    async def connect(self, key: str, offer: str) -> tuple[str, str]:
        """The SDP answer, and the key for the next connection: each opens one, which replaces the one before.

        Asked the same again, the answer is the same: the first got lost on its way. aiortc knows no ICE restart.

        Raises:
            WrongKeyError: the key was used before, or never given out.
            ValueError: the offer makes no sense.
        """
        async with self._connecting:  # the same offer may come again before it is answered
            if not self._answered or (key, offer) != self._answered[0]:
                self.key.use(key)
                answer = await self._connect(offer)
                self._answered = (key, offer), (answer, self.key.value)
            return self._answered[1]

    async def _connect(self, offer: str) -> str:
        SESSION.set(self.id)
        old, self._peer = self._peer, None
        if old:
            await old.close()
        face = FaceTrack(self.beat.sample_rate)
        voice = VoiceTrack(self.performer.playout, face, self.beat.sample_rate)
        peer = Peer(
            [voice, face],
            engine_rate=self.beat.sample_rate,
            ice_servers=self.ice_servers,
            on_heard=self._on_heard,
            on_message=self._on_message,
            on_open=self._on_open,
            on_gone=lambda: self._on_gone(peer),
        )
        try:
            answer = await peer.answer(offer)
        except ValueError:
            await peer.close()
            raise
        self._peer, self._voice_track, self._face_track = peer, voice, face
        return answer

    async def _end(self, reason: str) -> None:
        log.info("session ends: %s", reason)
        if self._peer:
            self._peer.send({"type": "ended", "message": reason})
        tasks = [*self._tasks, *self.errands]
        for task in tasks:
            task.cancel()
        if tasks:
            await asyncio.wait(tasks, timeout=CLOSE_S)
        if self._peer:
            await self._peer.close()
        await self.face.stop()
        self.on_end()

    async def _watch(self) -> None:
        """Report numbers to the page, and end the session when nobody is there, or when its time is over."""
        while True:
            await asyncio.sleep(REPORT_S)
            now = time.monotonic()
            for task in self._tasks:
                if task.done():
                    return await self.close("Something went wrong on the server. Please start again.")
            if now > self._end_s:
                return await self.close(f"A session lasts {self.patience.session_s / 60:.0f} minutes.")
            if now > self._deadline_s or now > self._heard_s + self.patience.away_s:
                return await self.close("Nobody is connected.")
            self._report()

    def _report(self) -> None:
        playout = self.performer.playout
        self.gauges.stalls.inc(playout.stalls - self._stalls)
        if losses := self.performer.losses - self._losses:
            self.gauges.losses.inc(losses)
            self._on_event({"type": "error", "message": LOST_PICTURE})
        self._stalls, self._losses = playout.stalls, self.performer.losses
        if self._peer and self._face_track:
            numbers = {
                "lead_ms": round(1000 * playout.queued_samples / self.beat.sample_rate),
                "stalls": playout.stalls,
                "frames": self._face_track.sent,
                "dropped": self._face_track.dropped,
            }
            self._peer.send({"type": "numbers", **numbers})

    def _on_open(self) -> None:
        self._deadline_s = math.inf
        if self._peer:
            self._peer.send({"type": "state", "state": "listening"})
        if not self._greeted and self.character.start_script:
            self.do(self.agent.speak(self.character.start_script))
        self._greeted = True

    def _on_gone(self, peer: Peer) -> None:
        if peer is self._peer:
            self._deadline_s = time.monotonic() + self.patience.away_s

    async def _on_heard(self, narrow: bytes, wide: Sound) -> None:
        self._heard_s = time.monotonic()
        self.performer.hear(wide)
        await self.agent.hear(narrow)

    def _on_message(self, message: dict[str, Any]) -> None:
        text = message.get("text")
        if not (message.get("type") == "text" and isinstance(text, str) and text.strip()):
            return
        try:
            self._texts.check(self.id)  # each asks the language model, which may cost money
        except FullError as error:
            return self._on_event({"type": "error", "message": str(error)})
        self.do(self.agent.read(text.strip()))

    def _on_event(self, event: Event) -> None:
        if event["type"] == "latency":
            self.gauges.turn_ms.observe(event["total_ms"])
            log.info("answered after %s ms", event["total_ms"], extra={"latency": event})
        if event["type"] == "interrupted":
            self.gauges.interruptions.inc()
        if self._peer:
            self._peer.send(event)
