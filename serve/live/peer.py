"""One WebRTC connection to a browser: its microphone, our two tracks, and a channel for messages."""

import asyncio
import json
import logging
from collections.abc import Awaitable, Callable
from typing import Any

import av
import numpy as np
from aiortc import (
    MediaStreamTrack,
    RTCConfiguration,
    RTCDataChannel,
    RTCIceServer,
    RTCPeerConnection,
    RTCSessionDescription,
)
from aiortc.mediastreams import MediaStreamError

from gwm.json_text import json_text
from serve.live.hearing import SAMPLE_RATE
from serve.live.sound import Sound

log = logging.getLogger(__name__)

CHANNEL_BYTES = 64_000  # unsent messages beyond this are left out: captions are worth less than memory
MESSAGE_CHARS = 2_000

# The two rates at which the microphone is needed: 16-bit for the agent, float for the engine.
Heard = Callable[[bytes, Sound], Awaitable[None]]


class Peer:
    """Callbacks: `on_heard` for sound, `on_message` for JSON objects, `on_gone` once when the connection is over."""

    def __init__(
        self,
        tracks: list[MediaStreamTrack],
        *,
        engine_rate: int,
        ice_servers: list[str],
        on_heard: Heard,
        on_message: Callable[[dict[str, Any]], None],
        on_open: Callable[[], None],
        on_gone: Callable[[], None],
    ) -> None:
        servers = [RTCIceServer(urls=url) for url in ice_servers]
        self.connection = RTCPeerConnection(RTCConfiguration(iceServers=servers))
        self.tracks, self.on_heard, self.on_message, self.on_gone = tracks, on_heard, on_message, on_gone
        self.on_open = on_open
        self._resamplers = [_mono("s16", SAMPLE_RATE), _mono("flt", engine_rate)]
        self._channel: RTCDataChannel | None = None
        self._listening: asyncio.Task[None] | None = None
        self.connection.on("track", self._on_track)
        self.connection.on("datachannel", self._on_channel)
        self.connection.on("connectionstatechange", self._on_state)

    async def answer(self, offer: str) -> str:
        """The SDP that answers a browser's.

        Raises:
            ValueError: the offer is no SDP with sound and picture.
        """
        try:
            await self.connection.setRemoteDescription(RTCSessionDescription(offer, "offer"))
            kinds = [transceiver.kind for transceiver in self.connection.getTransceivers()]
            if sorted(kinds) != ["audio", "video"]:
                raise ValueError(f"media {kinds} must be one audio and one video")
            for track in self.tracks:
                self.connection.addTrack(track)
            await self.connection.setLocalDescription(await self.connection.createAnswer())
        except (ValueError, KeyError, IndexError, AttributeError, AssertionError, TypeError) as error:
            # What aiortc raises on nonsense depends on which line of it makes no sense.
            raise ValueError(f"sdp must be a WebRTC offer of a browser ({type(error).__name__}: {error}).") from error
        return self.connection.localDescription.sdp

    def send(self, message: dict[str, Any]) -> None:
        channel = self._channel
        if channel and channel.readyState == "open" and channel.bufferedAmount < CHANNEL_BYTES:
            channel.send(json_text(message))

    async def close(self) -> None:
        if self._listening:
            self._listening.cancel()
        await self.connection.close()

    def _on_track(self, track: MediaStreamTrack) -> None:
        if track.kind == "audio" and self._listening is None:
            self._listening = asyncio.create_task(self._listen(track))

    def _on_channel(self, channel: RTCDataChannel) -> None:
        self._channel = channel
        channel.on("message", self._on_text)
        self.on_open()

    def _on_text(self, text: object) -> None:
        if not isinstance(text, str) or len(text) > MESSAGE_CHARS:
            return self._refuse(f"A message must be text of at most {MESSAGE_CHARS} characters.")
        try:
            message = json.loads(text)
        except ValueError:
            message = None
        if not isinstance(message, dict):
            return self._refuse("A message must be a JSON object.")
        self.on_message(message)

    def _refuse(self, reason: str) -> None:
        self.send({"type": "error", "message": reason})

    def _on_state(self) -> None:
        state = self.connection.connectionState
        log.info("connection %s", state)
        if state in ("failed", "closed", "disconnected"):
            self.on_gone()

    async def _listen(self, track: MediaStreamTrack) -> None:
        while True:
            try:
                frame = await track.recv()
            except MediaStreamError:
                return
            assert isinstance(frame, av.AudioFrame)
            frame.pts = None  # the samples themselves are contiguous
            narrow, wide = ([part.to_ndarray().reshape(-1) for part in to.resample(frame)] for to in self._resamplers)
            await self.on_heard(
                b"".join(part.tobytes() for part in narrow), np.concatenate([*wide, np.zeros(0, np.float32)])
            )


def _mono(form: str, rate: int) -> av.AudioResampler:
    return av.AudioResampler(format=form, layout="mono", rate=rate)
