"""One WebRTC connection to a browser: its microphone, our tracks, and a channel for messages.
Its offer is read and checked before the library sees it."""

import asyncio
import contextlib
import json
import logging
import math
import time
from collections.abc import Awaitable, Callable, Sequence
from typing import Any

import av
import numpy as np
from aiortc import (
    MediaStreamTrack,
    RTCConfiguration,
    RTCDataChannel,
    RTCIceServer,
    RTCPeerConnection,
    RTCRtpCodecCapability,
    RTCRtpCodecParameters,
    RTCSessionDescription,
)
from aiortc.codecs import CODECS
from aiortc.mediastreams import MediaStreamError
from aiortc.sdp import MediaDescription, SessionDescription

from gwm.files.json_text import json_text
from serve.live.avatar.voice_buffers import Sound
from serve.live.speech.recogniser import SAMPLE_RATE

log = logging.getLogger(__name__)

CHANNEL_BYTES = 64_000  # unsent messages beyond this are left out: captions are worth less than memory
MESSAGE_CHARS = 2_000

# 16-bit for the agent, float for the engine.
Heard = Callable[[bytes, Sound], Awaitable[None]]


class Peer:
    """Callbacks: `on_microphone` for sound, `on_message` for JSON objects, `on_picture` for binary messages,
    `on_connected` when sound and picture flow, `on_channel` when messages can be sent, `on_gone` when the connection is
    over."""

    def __init__(
        self,
        tracks: list[MediaStreamTrack],
        *,
        engine_rate: int,
        ice_servers: list[RTCIceServer],
        on_microphone: Heard,
        on_message: Callable[[dict[str, Any]], None],
        on_picture: Callable[[bytes], None],
        on_connected: Callable[[], None],
        on_channel: Callable[[], None],
        on_gone: Callable[[], None],
    ) -> None:
        self.connection = RTCPeerConnection(RTCConfiguration(iceServers=ice_servers))
        self.tracks, self.on_microphone, self.on_message, self.on_gone = tracks, on_microphone, on_message, on_gone
        self.on_connected, self.on_channel, self.on_picture = on_connected, on_channel, on_picture
        self._microphone = Microphone(engine_rate, self._on_sound)
        self._heard_s = math.inf  # a microphone that is switched off sends silence; one that sends nothing is gone
        self._channel: RTCDataChannel | None = None
        self._channel_open = asyncio.Event()
        self.connection.on("track", self._on_track)
        self.connection.on("datachannel", self._on_channel)
        self.connection.on("connectionstatechange", self._on_state)

    async def answer(self, offer: str) -> str:
        """The SDP that answers a client's.

        Raises:
            ValueError: the offer is no SDP, or sound and picture cannot be sent to whoever made it.
        """
        check_page_offer(offer, [track.kind for track in self.tracks])
        try:
            await self.connection.setRemoteDescription(RTCSessionDescription(offer, "offer"))
            for track in self.tracks:
                self.connection.addTrack(track)
            for transceiver in self.connection.getTransceivers():
                if transceiver.kind == "video":
                    transceiver.direction = "sendonly"  # a picture that nobody looks at would fill the memory
            await self.connection.setLocalDescription(await self.connection.createAnswer())
        except Exception as error:  # what aiortc raises depends on which line of the offer it cannot use
            log.info("offer refused by the library: %r", error)
            raise ValueError(f"sdp must be a WebRTC offer that can be answered ({cause_of(error)}).") from error
        return self.connection.localDescription.sdp

    async def channel_opens(self, within_s: float) -> bool:
        """Wait for the channel; whether it is there."""
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self._channel_open.wait(), within_s)
        return self._channel_open.is_set()

    def send(self, message: dict[str, Any]) -> None:
        channel = self._channel
        if channel and channel.readyState == "open" and channel.bufferedAmount < CHANNEL_BYTES:
            channel.send(json_text(message))

    async def close(self) -> None:
        self._microphone.close()
        await close_connection(self.connection)

    def is_silent(self, for_s: float) -> bool:
        """Whether a microphone that was heard sends nothing any more."""
        return time.monotonic() > self._heard_s + for_s

    async def _on_sound(self, narrow: bytes, wide: Sound) -> None:
        self._heard_s = time.monotonic()
        await self.on_microphone(narrow, wide)

    def _on_track(self, track: MediaStreamTrack) -> None:
        if track.kind == "audio":
            self._microphone.listen(track)

    def _on_channel(self, channel: RTCDataChannel) -> None:
        self._channel = channel
        channel.on("message", self._on_data)
        self._channel_open.set()
        self.on_channel()

    def _on_data(self, data: str | bytes) -> None:
        try:
            if isinstance(data, bytes):
                self.on_picture(data)
            else:
                self.on_message(read_message(data))
        except ValueError as error:
            self.send({"type": "error", "message": str(error)})

    def _on_state(self) -> None:
        state = self.connection.connectionState
        log.info("connection %s", state)
        if state == "connected":
            self.on_connected()
        if state in ("failed", "closed", "disconnected"):
            self.on_gone()


def read_message(text: object) -> dict[str, Any]:
    """What a client sends in a channel of messages.

    Raises:
        ValueError: it is too long, or no JSON object.
    """
    if not isinstance(text, str) or len(text) > MESSAGE_CHARS:
        raise ValueError(f"A message must be text of at most {MESSAGE_CHARS} characters.")
    try:
        message = json.loads(text)
    except (ValueError, RecursionError):
        message = None
    if not isinstance(message, dict):
        raise ValueError("A message must be a JSON object.")
    return message


MAX_CANDIDATES = 64  # each is an address to which packets are sent
REPAIR = {"rtx", "red", "ulpfec", "flexfec-03"}  # carry no picture of their own
RECEIVING = ("sendrecv", "recvonly")


async def close_connection(connection: RTCPeerConnection) -> None:
    """Close it for good: what connects it may go on behind its last wait while and after it is closed, and would then
    begin to send, to receive and to ask for consent, with nobody there and without an end."""
    transceivers: list[Any] = connection.getTransceivers()
    transports = {each.receiver.transport.transport for each in transceivers}
    for each in transceivers:
        each.sender.send = each.receiver.receive = _begin_nothing
    if connection.sctp is not None:
        transports.add(connection.sctp.transport.transport)
    for transport in transports:
        transport._connection.query_consent = _begin_nothing
    await connection.close()


async def _begin_nothing(*parameters: object) -> None:
    pass


def read_offer(offer: str) -> list[MediaDescription]:
    """The media of an offer.

    Raises:
        ValueError: it is no SDP, is not encrypted, or has too many candidates.
    """
    try:
        media = SessionDescription.parse(offer).media
        candidates = sum(len(part.ice_candidates) for part in media)
        secured = all(part.dtls and part.dtls.fingerprints for part in media)
    except Exception as error:  # the parser has no error of its own
        raise ValueError(f"sdp must be a WebRTC offer ({cause_of(error)}).") from error
    if candidates > MAX_CANDIDATES:
        raise ValueError(f"sdp has {candidates} candidates, must have at most {MAX_CANDIDATES}.")
    if not secured:
        raise ValueError("sdp has no fingerprint of a certificate (a=fingerprint): media are sent encrypted.")
    return media


def check_page_offer(offer: str, kinds: Sequence[str] = ("audio", "video")) -> None:
    """Check that an offer has the media, codecs and directions that a page is served; `kinds` are what is sent.

    Raises:
        ValueError: it is no SDP, or what it asks for is not served here; the message says what would be.
    """
    found = [(part.kind, part.direction, [_codec(codec) for codec in part.rtp.codecs]) for part in read_offer(offer)]
    media = [kind for kind, _, _ in found if kind in CODECS]
    if sorted(media) != sorted(kinds):
        wanted = " and ".join(f"one {kind}" for kind in sorted(kinds))
        raise ValueError(f"sdp offers {media or 'no media'}, must offer {wanted}.")
    for kind, direction, codecs in found:
        if kind not in CODECS:
            continue
        served = sorted({_codec(codec) for codec in CODECS[kind]} - REPAIR)
        if not set(served) & set(codecs):
            offered = ", ".join(dict.fromkeys(codec for codec in codecs if codec not in REPAIR)) or "none"
            raise ValueError(f"sdp offers the {kind} codecs {offered}, must offer one of {', '.join(served)}.")
        if direction not in RECEIVING:
            raise ValueError(f"sdp has {kind} {direction}, must be sendrecv or recvonly: the character is sent there.")


def cause_of(error: Exception) -> str:
    return f"{type(error).__name__}: {error}"[:200]


def _codec(codec: RTCRtpCodecParameters | RTCRtpCodecCapability) -> str:
    return codec.mimeType.split("/")[-1]


class Microphone:
    """`listen` to a track; what it listened to before is then left."""

    def __init__(self, engine_rate: int, on_sound: Heard) -> None:
        self.engine_rate, self.on_sound = engine_rate, on_sound
        self._listening: asyncio.Task[None] | None = None

    def listen(self, track: MediaStreamTrack) -> None:
        self.close()
        self._listening = asyncio.create_task(self._listen(track))

    def close(self) -> None:
        if self._listening:
            self._listening.cancel()

    async def _listen(self, track: MediaStreamTrack) -> None:
        resamplers = [_mono("s16", SAMPLE_RATE), _mono("flt", self.engine_rate)]
        while True:
            try:
                frame = await track.recv()
            except MediaStreamError:
                return
            assert isinstance(frame, av.AudioFrame)
            frame.pts = None  # the samples themselves are contiguous
            narrow, wide = ([part.to_ndarray().reshape(-1) for part in to.resample(frame)] for to in resamplers)
            await self.on_sound(
                b"".join(part.tobytes() for part in narrow), np.concatenate([*wide, np.zeros(0, np.float32)])
            )


def _mono(form: str, rate: int) -> av.AudioResampler:
    return av.AudioResampler(format=form, layout="mono", rate=rate)
