"""The WebRTC connections of one client: one for both directions, or, as older clients have it, one for each."""

import asyncio
import json
import logging
from collections.abc import Callable, Coroutine, Iterable
from dataclasses import dataclass, field
from typing import Any, TypeVar

from aiortc import (
    MediaStreamTrack,
    RTCConfiguration,
    RTCDataChannel,
    RTCIceCandidate,
    RTCIceServer,
    RTCPeerConnection,
    RTCRtpReceiver,
    RTCSessionDescription,
)
from aiortc.codecs import HEADER_EXTENSIONS
from aiortc.rtcrtpparameters import RTCRtpHeaderExtensionParameters
from aiortc.sdp import MediaDescription, candidate_from_sdp
from google.protobuf.message import DecodeError
from livekit.protocol import models, rtc

from serve.live.http.peer import CHANNEL_BYTES, MAX_CANDIDATES, cause_of, close_connection, read_offer
from serve.live.room.descriptions import CHARACTER_SID, STREAM

log = logging.getLogger(__name__)

Step = TypeVar("Step")

RELIABLE = "_reliable"  # the channel that everything is sent on
MAX_MEDIA = 32  # sections of an offer; LiveKit's clients begin with 7, and add one for each track
# A camera is offered in layers, even where it is declined. Where the answer does not repeat these, Chromium cannot make
# another offer ("negotiates simulcast but does not negotiate the RID"), and its LiveKit joins again and again.
LAYER_EXTENSIONS = (
    "urn:ietf:params:rtp-hdrext:sdes:rtp-stream-id",
    "urn:ietf:params:rtp-hdrext:sdes:repaired-rtp-stream-id",
)
HEADER_EXTENSIONS["video"] += [
    RTCRtpHeaderExtensionParameters(id=number, uri=uri) for number, uri in enumerate(LAYER_EXTENSIONS, 8)
]


@dataclass(frozen=True, slots=True, kw_only=True)
class LinkEvents:
    """What is called when something comes from the client."""

    packet: Callable[[models.DataPacket], None]
    audio: Callable[[MediaStreamTrack], bool]  # whether it is listened to from now on, in place of the one before
    video: Callable[[MediaStreamTrack, RTCRtpReceiver], bool]  # whether it is looked at from now on
    channel: Callable[[], None]  # packets can be sent
    state: Callable[[str], None]  # of the connection that carries what the server sends


@dataclass(slots=True)
class Links:
    """Answer what the client offers, and with two connections `offer` what the server sends.

    tracks: what the client is sent, by their ids; none for one that neither sees nor hears.
    """

    one_connection: bool
    tracks: dict[str, MediaStreamTrack]
    ice_servers: list[RTCIceServer]
    events: LinkEvents
    _publisher: RTCPeerConnection | None = None
    _subscriber: RTCPeerConnection | None = None
    _channel: RTCDataChannel | None = None
    _placed: dict[str, str] = field(default_factory=dict)  # track ids by the section that carries them
    _heard: MediaStreamTrack | None = None
    _seen: set[MediaStreamTrack] = field(default_factory=set)
    _addresses: set[tuple[str, int]] = field(default_factory=set)  # of the client, to which packets are sent
    _closed: bool = False
    _negotiating: asyncio.Lock = field(default_factory=asyncio.Lock)

    async def answer(self, offer: rtc.SessionDescription) -> rtc.SessionDescription:
        """
        Raises:
            ValueError: the offer is no SDP, or cannot be answered.
        """
        return await self._whole(self._answer(offer))

    async def offer(self) -> rtc.SessionDescription:
        """What the server sends, as the second of two connections."""
        return await self._whole(self._offer())

    async def accept(self, answer: rtc.SessionDescription) -> None:
        """
        Raises:
            ValueError: nothing was offered, or the answer does not fit it.
        """
        await self._whole(self._accept(answer))

    async def add_candidate(self, trickle: rtc.TrickleRequest) -> None:
        """
        Raises:
            ValueError: it is no candidate, or there have been too many.
        """
        await self._whole(self._add_candidate(trickle))

    async def _whole(self, step: Coroutine[Any, Any, Step]) -> Step:
        """One at a time, and to its end also when whoever asks is cancelled: half of a step leaves open sockets that
        no connection knows.

        Raises:
            ValueError: everything has been closed meanwhile.
        """

        async def alone() -> Step:
            async with self._negotiating:
                if self._closed:
                    step.close()
                    raise ValueError("the connection is closed.")
                return await step

        return await asyncio.shield(asyncio.ensure_future(alone()))

    async def _answer(self, offer: rtc.SessionDescription) -> rtc.SessionDescription:
        media = read_offer(offer.sdp)
        if len(media) > MAX_MEDIA:
            raise ValueError(f"sdp has {len(media)} sections, must have at most {MAX_MEDIA}.")
        self._count(candidate for part in media for candidate in part.ice_candidates)
        if self._publisher is None:
            self._publisher = self._connection(sends=self.one_connection)
        connection = self._publisher
        try:
            await connection.setRemoteDescription(RTCSessionDescription(offer.sdp, "offer"))
            if self.one_connection:
                self._place(connection, media)
            for transceiver in connection.getTransceivers():
                if transceiver.sender.track is None:  # what nobody looks at or listens to would fill the memory
                    track = transceiver.receiver.track
                    taken = track is not None and (track is self._heard or track in self._seen)
                    transceiver.direction = "recvonly" if taken else "inactive"
            await connection.setLocalDescription(await connection.createAnswer())
        except Exception as error:  # what aiortc raises depends on which line of the offer it cannot use
            raise ValueError(f"sdp must be a WebRTC offer that can be answered ({cause_of(error)}).") from error
        sdp = connection.localDescription.sdp
        return rtc.SessionDescription(type="answer", sdp=sdp, id=offer.id, mid_to_track_id=self._placed)

    async def _offer(self) -> rtc.SessionDescription:
        self._subscriber = connection = self._connection(sends=True)
        for sid, track in self.tracks.items():
            sender = connection.addTrack(track)
            _name(sender, sid)
        self._watch(connection.createDataChannel(RELIABLE), sends=True)
        await connection.setLocalDescription(await connection.createOffer())
        return rtc.SessionDescription(type="offer", sdp=connection.localDescription.sdp, id=1)

    async def _accept(self, answer: rtc.SessionDescription) -> None:
        if self._subscriber is None:
            raise ValueError("answer came without an offer.")
        self._count(candidate for part in read_offer(answer.sdp) for candidate in part.ice_candidates)
        try:
            await self._subscriber.setRemoteDescription(RTCSessionDescription(answer.sdp, "answer"))
        except Exception as error:  # as above
            raise ValueError(f"sdp must be an answer that fits the offer ({cause_of(error)}).") from error

    async def _add_candidate(self, trickle: rtc.TrickleRequest) -> None:
        connection = self._publisher if trickle.target == rtc.PUBLISHER else self._subscriber
        try:
            given = json.loads(trickle.candidateInit)
            text = given["candidate"]
            if not text or connection is None:
                return
            candidate = candidate_from_sdp(text.removeprefix("candidate:"))
            self._count([candidate])
            candidate.sdpMid, candidate.sdpMLineIndex = given.get("sdpMid"), given.get("sdpMLineIndex")
            await connection.addIceCandidate(candidate)
        except Exception as error:  # the parser of the library has no error of its own
            raise ValueError(f"candidateInit must be a candidate as JSON ({cause_of(error)}).") from error

    def _count(self, candidates: Iterable[RTCIceCandidate]) -> None:
        """Over the whole stay: an offer repeats those of the one before."""
        self._addresses.update((each.ip, each.port) for each in candidates)
        if len(self._addresses) > 2 * MAX_CANDIDATES:
            raise ValueError(f"There are more than {2 * MAX_CANDIDATES} candidates.")

    def send(self, packet: models.DataPacket) -> bool:
        """Whether it was sent: the channel is open, and the client reads it."""
        channel = self._channel
        if channel is None or channel.readyState != "open" or channel.bufferedAmount >= CHANNEL_BYTES:
            return False
        channel.send(packet.SerializeToString())
        return True

    async def close(self) -> None:
        """Both connections, for good, after a step that is under way."""
        async with self._negotiating:
            self._closed = True
            for connection in (self._publisher, self._subscriber):
                if connection is not None:
                    await close_connection(connection)

    def _connection(self, *, sends: bool) -> RTCPeerConnection:
        connection = RTCPeerConnection(RTCConfiguration(iceServers=self.ice_servers))
        connection.on("track", lambda track: self._on_track(connection, track))
        connection.on("datachannel", lambda channel: self._watch(channel, sends=sends))
        if sends:
            connection.on("connectionstatechange", lambda: self.events.state(connection.connectionState))
        return connection

    def _place(self, connection: RTCPeerConnection, media: list[MediaDescription]) -> None:
        """Put each track that is not sent yet where the client wants to receive one."""
        wanted = {part.rtp.muxId for part in media if part.direction in ("recvonly", "sendrecv")}
        for sid, track in self.tracks.items():
            if sid in self._placed.values():
                continue
            for transceiver in connection.getTransceivers():
                if transceiver.kind == track.kind and transceiver.mid in wanted and transceiver.sender.track is None:
                    transceiver.sender.replaceTrack(track)
                    transceiver.direction = "sendonly"
                    _name(transceiver.sender, sid)
                    self._placed[transceiver.mid] = sid
                    break

    def _on_track(self, connection: RTCPeerConnection, track: MediaStreamTrack) -> None:
        if track.kind == "audio" and self.events.audio(track):
            self._heard = track
        if track.kind == "video":
            receivers = (each.receiver for each in connection.getTransceivers())
            receiver = next(each for each in receivers if each.track is track)
            if self.events.video(track, receiver):
                self._seen.add(track)

    def _watch(self, channel: RTCDataChannel, *, sends: bool) -> None:
        channel.on("message", self._on_bytes)
        if sends and channel.label == RELIABLE:
            self._channel = channel
            if channel.readyState == "open":
                self.events.channel()
            else:
                channel.on("open", self.events.channel)

    def _on_bytes(self, data: bytes | str) -> None:
        try:
            packet = models.DataPacket.FromString(data if isinstance(data, bytes) else data.encode())
        except DecodeError as error:
            log.info("no data packet: %s", error)
            return
        self.events.packet(packet)


def _name(sender, sid: str) -> None:
    """Clients learn from the stream whose track it is, and play its tracks together. aiortc has no public way."""
    sender._stream_id, sender._track_id = f"{CHARACTER_SID}|{STREAM}", sid
