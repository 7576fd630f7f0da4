"""A client of LiveKit's signalling made of aiortc: of either kind, and with what a rude one would send."""

import asyncio
import base64
import contextlib
import gzip
import json
from collections.abc import Callable
from typing import Any

from aiohttp import ClientWebSocketResponse, WSMsgType
from aiohttp.test_utils import TestClient
from aiortc import RTCPeerConnection, RTCSessionDescription
from aiortc.mediastreams import AudioStreamTrack, MediaStreamError, MediaStreamTrack
from livekit.protocol import models, rtc

from serve.live.http.peer import close_connection
from tests.serve.live.server_kit import DEADLINE_S
from tests.serve.runway_api.api_kit import Served
from tests.serve.runway_api.test_rooms import opened

Room = dict[str, str]


async def consumed(one: Served, **more: Any) -> tuple[str, Room]:
    """A session's path, and what its visitor joins with."""
    path, ready = await opened(one, **more)
    return path, await one.ask("POST", f"{path}/consume", key=ready["sessionKey"])


def join_query(offer: str = "", **more: Any) -> str:
    """The packed request of newer clients."""
    request = rtc.JoinRequest(publisher_offer=rtc.SessionDescription(type="offer", sdp=offer, id=7), **more)
    packed = gzip.compress(request.SerializeToString())
    wrapped = rtc.WrappedJoinRequest(compression=rtc.WrappedJoinRequest.GZIP, join_request=packed)
    return base64.urlsafe_b64encode(wrapped.SerializeToString()).decode()


class RoomClient:
    """`join` and look at what came; one connection for both directions, or two."""

    def __init__(
        self, *, two: bool = False, listens: bool = True, speaks: bool = True, screen: MediaStreamTrack | None = None
    ) -> None:
        self.two, self.listens, self.speaks, self.screen = two, listens, speaks, screen
        self.publisher = RTCPeerConnection()
        self.subscriber = RTCPeerConnection() if two else self.publisher
        self.signals: list[rtc.SignalResponse] = []
        self.packets: list[models.DataPacket] = []
        self.media: dict[str, list[Any]] = {"audio": [], "video": []}
        self.ended = asyncio.Event()
        self._tasks: list[asyncio.Task[None]] = []
        self.channel = self.publisher.createDataChannel("_reliable")
        self.channel.on("message", self._on_bytes)
        for connection in {self.publisher, self.subscriber}:
            connection.on("track", self._watch)
            connection.on("datachannel", lambda channel: channel.on("message", self._on_bytes))
        if speaks:
            self.publisher.addTrack(AudioStreamTrack())
        if screen is not None:
            self.publisher.addTransceiver(screen, direction="sendonly")
        if listens and not two:
            for kind in ("audio", "video"):
                self.publisher.addTransceiver(kind, direction="recvonly")

    async def join(self, client: TestClient, room: Room) -> rtc.JoinResponse:
        offer = await self._offer()
        mic = rtc.AddTrackRequest(cid="mic", type=models.AUDIO, source=models.MICROPHONE)
        screen = rtc.AddTrackRequest(cid="screen", type=models.VIDEO, source=models.SCREEN_SHARE)
        wishes = [mic] * self.speaks + [screen] * (self.screen is not None)
        query = {} if self.two else {"join_request": join_query(offer, add_track_requests=wishes)}
        path = "/rtc" if self.two else "/rtc/v1"
        self.socket: ClientWebSocketResponse = await client.ws_connect(
            path, params=query, headers={"Authorization": f"Bearer {room['token']}"}
        )
        self._tasks.append(asyncio.create_task(self._read()))
        joined = await self.signal("join")
        if self.speaks:
            if self.two:
                self.request(add_track=mic)
            assert (await self.signal("track_published")).track_published.cid == "mic"
        if self.two:
            offered = (await self.signal("offer")).offer
            await self.subscriber.setRemoteDescription(RTCSessionDescription(offered.sdp, "offer"))
            await self.subscriber.setLocalDescription(await self.subscriber.createAnswer())
            self.request(answer=rtc.SessionDescription(type="answer", sdp=self.subscriber.localDescription.sdp))
            self.request(offer=rtc.SessionDescription(type="offer", sdp=offer, id=7))
        answered = (await self.signal("answer")).answer
        assert answered.id == 7
        self.mids = dict(answered.mid_to_track_id)
        await self.publisher.setRemoteDescription(RTCSessionDescription(answered.sdp, "answer"))
        return joined.join

    async def _offer(self) -> str:
        await self.publisher.setLocalDescription(await self.publisher.createOffer())
        return self.publisher.localDescription.sdp

    def request(self, **message: Any) -> None:
        self._tasks.append(
            asyncio.create_task(self.socket.send_bytes(rtc.SignalRequest(**message).SerializeToString()))
        )

    def say(self, message: Any) -> None:
        text = message if isinstance(message, str) else json.dumps(message)
        self.send(user=models.UserPacket(payload=text.encode()))

    def send(self, **packet: Any) -> None:
        self.channel.send(models.DataPacket(**packet).SerializeToString())

    async def signal(self, kind: str) -> rtc.SignalResponse:
        """The first of this kind that has come, or comes."""
        return await until(lambda: next((each for each in self.signals if each.HasField(kind)), None))

    async def packet(self, found: Callable[[models.DataPacket], bool]) -> models.DataPacket:
        return await until(lambda: next((each for each in self.packets if found(each)), None))

    async def message(self, kind: str) -> dict[str, Any]:
        return await until(lambda: next((each for each in self.messages if each["type"] == kind), None))

    @property
    def messages(self) -> list[dict[str, Any]]:
        return [json.loads(each.user.payload) for each in self.packets if each.HasField("user")]

    async def said(self, words: str, identity: str = "worker:avatar") -> models.TranscriptionSegment:
        """The segment with these words, once it is final."""

        def final() -> models.TranscriptionSegment | None:
            for packet in self.packets:
                if packet.transcription.transcribed_participant_identity == identity:
                    (segment,) = packet.transcription.segments
                    if segment.final and words in segment.text:
                        return segment
            return None

        return await until(final)

    async def __aenter__(self) -> "RoomClient":
        return self

    async def __aexit__(self, *error: object) -> None:
        for task in self._tasks:
            task.cancel()
        if hasattr(self, "socket"):
            await self.socket.close()
        for connection in {self.publisher, self.subscriber}:
            await close_connection(connection)

    async def _read(self) -> None:
        async for message in self.socket:
            assert message.type is WSMsgType.BINARY
            self.signals.append(rtc.SignalResponse.FromString(message.data))
        self.ended.set()

    def _on_bytes(self, data: bytes) -> None:
        self.packets.append(models.DataPacket.FromString(data))

    def _watch(self, track: Any) -> None:
        async def receive() -> None:
            with contextlib.suppress(MediaStreamError):
                while True:
                    self.media[track.kind].append(await track.recv())

        self._tasks.append(asyncio.create_task(receive()))


async def until(found: Callable[[], Any]) -> Any:
    """What is found, once it is."""
    async with asyncio.timeout(DEADLINE_S):
        while not (value := found()):
            await asyncio.sleep(0.02)
        return value
