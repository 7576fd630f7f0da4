"""One client in a room: its websocket of LiveKit's signalling, from its first message to its last."""

import asyncio
import contextlib
import logging
import math
import time
from abc import ABC, abstractmethod

from aiohttp import WSMsgType, web
from aiortc import MediaStreamTrack, RTCIceServer, RTCRtpReceiver
from google.protobuf.message import DecodeError
from livekit.protocol import models, rtc

from serve.live.http.refusals import NotHereError
from serve.live.room.descriptions import Wish, join_response, leave, new_sid
from serve.live.room.links import LinkEvents, Links
from serve.live.room.tokens import Grant

log = logging.getLogger(__name__)

WAITING_MESSAGES = 200  # that a client has not read
MESSAGES_PER_S, BURST_MESSAGES = 50, 200  # of a client; a browser that joins sends some 40 at once
UNREAD_S, CLOSING_S = 5.0, 2.0
PUBLISHED_TRACKS = 16


class Participant(ABC):
    """`serve` it until its websocket ends, from whichever side; `leave_by` ends it."""

    def __init__(
        self, grant: Grant, wish: Wish, tracks: dict[str, MediaStreamTrack], ice_servers: list[RTCIceServer]
    ) -> None:
        self.grant, self.wish, self.sid = grant, wish, new_sid("PA")
        self.ice_servers = ice_servers
        self.published: list[models.TrackInfo] = []
        events = LinkEvents(
            packet=self.on_packet,
            audio=self.on_audio,
            video=self.on_video,
            channel=self.on_channel,
            state=self.on_state,
        )
        self.links = Links(wish.one_connection, tracks, ice_servers, events)
        self._outgoing: asyncio.Queue[rtc.SignalResponse | None] = asyncio.Queue(WAITING_MESSAGES)
        self._socket: web.WebSocketResponse | None = None
        self._connection: asyncio.Transport | None = None
        self._writing: asyncio.Task[None] | None = None
        self._leaving: asyncio.Task[None] | None = None

    @abstractmethod
    def others(self) -> list[models.ParticipantInfo]:
        """Who is in the room, as this client sees it."""

    @abstractmethod
    async def admitted(self) -> None:
        """Called once, when the first offer is made or answered.

        Raises:
            NotHereError: the conversation is over.
        """

    @abstractmethod
    def on_packet(self, packet: models.DataPacket) -> None: ...

    @abstractmethod
    def on_audio(self, track: MediaStreamTrack) -> bool: ...

    def on_video(self, track: MediaStreamTrack, receiver: RTCRtpReceiver) -> bool:
        """Whether it is looked at."""
        return False

    def on_mute(self, track: models.TrackInfo) -> None:
        """A published track shows nothing for now, or again."""
        log.debug("%s %s", track.name, "muted" if track.muted else "unmuted")

    @abstractmethod
    def on_channel(self) -> None: ...

    @abstractmethod
    def on_state(self, state: str) -> None: ...

    @property
    def left(self) -> bool:
        return self._leaving is not None

    async def serve(self, socket: web.WebSocketResponse, request: web.Request) -> None:
        """The whole connection, on a websocket that is open."""
        self._socket, self._connection = socket, request.transport
        self._writing = asyncio.create_task(self._write(socket))
        reason = "SIGNAL_CLOSE"
        try:
            self.signal(
                join_response(
                    self.grant, self.sid, self.others(), self.ice_servers, one_connection=self.wish.one_connection
                )
            )
            for asked in self.wish.publishes:
                self._publish(asked)
            if not self.wish.one_connection:
                self.signal(rtc.SignalResponse(offer=await self.links.offer()))
            elif self.wish.offer is not None:
                self.signal(rtc.SignalResponse(answer=await self.links.answer(self.wish.offer)))
            await self.admitted()
            await self._read(socket)
        except (ValueError, DecodeError) as error:
            log.info("%s sent what cannot be used: %s", self.grant.identity, error)
            reason = "STATE_MISMATCH"
        except NotHereError:
            reason = "ROOM_DELETED"
        except TimeoutError:
            log.info("%s has not been heard for too long", self.grant.identity)
            reason = "CONNECTION_TIMEOUT"
        finally:
            try:
                await self.leave_by(reason)
            finally:  # the server cancels this when the client goes away
                self._writing.cancel()

    def signal(self, response: rtc.SignalResponse) -> None:
        """Send it in order. A client that does not read is disconnected."""
        try:
            self._outgoing.put_nowait(response)
        except asyncio.QueueFull:
            self._abort()

    async def leave_by(self, reason: str) -> None:
        """Tell the client that it has to go and why, and close everything: once, also when whoever asks goes away."""
        if self._leaving is None:
            self._leaving = asyncio.create_task(self._leave(reason))
        await asyncio.shield(self._leaving)

    async def _leave(self, reason: str) -> None:
        with contextlib.suppress(asyncio.QueueFull):
            self._outgoing.put_nowait(leave("DISCONNECT", reason))
            self._outgoing.put_nowait(None)
        try:
            if self._socket is not None:
                async with asyncio.timeout(CLOSING_S):
                    while not self._outgoing.empty() and self._writing and not self._writing.done():
                        await asyncio.sleep(0.01)
                    await self._socket.close()
        except TimeoutError:
            self._abort()
        finally:
            await self.links.close()

    async def _read(self, socket: web.WebSocketResponse) -> None:
        due_s = -math.inf
        async for message in socket:
            due_s = max(due_s, time.monotonic() - BURST_MESSAGES / MESSAGES_PER_S) + 1 / MESSAGES_PER_S
            await asyncio.sleep(due_s - time.monotonic())  # a client that sends faster waits in its own buffers
            if message.type is not WSMsgType.BINARY:
                raise ValueError("a message must be binary.")
            request = rtc.SignalRequest.FromString(message.data)
            if request.HasField("leave"):
                return
            await self._take(request)

    async def _write(self, socket: web.WebSocketResponse) -> None:
        """The one writer of the websocket, until the client stops reading."""
        try:
            while (response := await self._outgoing.get()) is not None:
                await asyncio.wait_for(socket.send_bytes(response.SerializeToString()), UNREAD_S)
        except (TimeoutError, ConnectionError):
            self._abort()

    def _abort(self) -> None:
        """The end without a word; the reader wakes up."""
        if self._connection is not None:
            self._connection.abort()

    async def _take(self, request: rtc.SignalRequest) -> None:
        """
        Raises:
            ValueError: it cannot be used, so that client and server would disagree from here on.
        """
        kind = request.WhichOneof("message")
        if kind == "offer":
            self.signal(rtc.SignalResponse(answer=await self.links.answer(request.offer)))
        elif kind == "answer":
            await self.links.accept(request.answer)
        elif kind == "trickle":
            await self.links.add_candidate(request.trickle)
        elif kind == "ping":
            self.signal(rtc.SignalResponse(pong=_now_ms()))
        elif kind == "ping_req":
            pong = rtc.Pong(last_ping_timestamp=request.ping_req.timestamp, timestamp=_now_ms())
            self.signal(rtc.SignalResponse(pong_resp=pong))
        elif kind == "add_track":
            self._publish(request.add_track)
        elif kind == "mute":
            for track in self.published:
                if track.sid == request.mute.sid:
                    track.muted = request.mute.muted
                    self.on_mute(track)
        elif kind == "update_metadata":
            self._refuse(rtc.RequestResponse(request_id=request.update_metadata.request_id))
        elif kind == "publish_data_track_request":
            self._refuse(rtc.RequestResponse(publish_data_track=request.publish_data_track_request))

    def _publish(self, asked: rtc.AddTrackRequest) -> None:
        if self.grant.hidden or len(self.published) >= PUBLISHED_TRACKS:
            return self._refuse(rtc.RequestResponse(add_track=asked))
        track = models.TrackInfo(
            sid=new_sid("TR"),
            type=asked.type,
            name=asked.name,
            source=asked.source,
            muted=asked.muted,
            width=asked.width,
            height=asked.height,
            stream=asked.stream,
        )
        self.published.append(track)
        self.signal(rtc.SignalResponse(track_published=rtc.TrackPublishedResponse(cid=asked.cid, track=track)))

    def _refuse(self, answer: rtc.RequestResponse) -> None:
        answer.reason, answer.message = rtc.RequestResponse.NOT_ALLOWED, "This room does not serve that."
        self.signal(rtc.SignalResponse(request_response=answer))


def _now_ms() -> int:
    return round(1000 * time.time())
