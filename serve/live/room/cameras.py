"""Pictures of a video track that a client publishes: one a second, and no others are decoded."""

import asyncio
import contextlib
import io
import queue
import time
from collections.abc import Callable
from typing import Any

import av
from aiortc import MediaStreamTrack, RTCRtpReceiver
from aiortc.mediastreams import MediaStreamError

from serve.live.vision.pictures import MAX_PIXELS, PICTURE_BYTES, Picture
from serve.live.vision.sight import Sight

EVERY_S = 1.0
REQUESTED_S = 0.2  # until a look that was asked for is seen
LONGEST_PX = 1280
QUALITIES = (80, 50, 25)
VP8_BEGIN = b"\x9d\x01\x2a"  # of a frame that needs no other; RFC 6386, section 9.1


def key_frame_size(data: bytes) -> tuple[int, int] | None:
    """Width and height of a VP8 frame that needs no other; None: it is another frame."""
    if len(data) < 10 or data[0] & 1 or data[3:6] != VP8_BEGIN:
        return None
    width, height = (int.from_bytes(data[place : place + 2], "little") & 0x3FFF for place in (6, 8))
    return width, height


class KeyFrames(queue.Queue[Any]):
    """What a decoder is given of a track: a key frame a second, of a size that is taken.

    Decoding all of them would cost whatever a client cares to send; these cost one picture a second.
    """

    def __init__(self, on_large: Callable[[int, int], None]) -> None:
        super().__init__()
        self.on_large, self._next_s = on_large, 0.0

    def put(self, item: Any, block: bool = True, timeout: float | None = None) -> None:
        if item is not None:  # None ends the decoder
            codec, frame = item
            size, now = key_frame_size(frame.data) if codec.name == "VP8" else None, time.monotonic()
            if size is None or now < self._next_s:
                return
            self._next_s = now + 0.8 * EVERY_S
            if size[0] * size[1] > MAX_PIXELS:
                return self.on_large(*size)
        super().put(item, block, timeout)


class Camera:
    """Shows `sight` what a track shows, as often as it wants pictures, until it is closed."""

    def __init__(self, source: str, track: MediaStreamTrack, receiver: RTCRtpReceiver, sight: Sight) -> None:
        self.source, self.track, self.receiver, self.sight = source, track, receiver, sight
        self._reported = False
        sight.show(source)
        # Before the receiver starts its decoder. aiortc has no public way to decode less than everything.
        receiver._RTCRtpReceiver__decoder_queue = KeyFrames(self._on_large)  # pyright: ignore
        self._tasks = [asyncio.create_task(work) for work in (self._watch(), self._ask())]

    def close(self) -> None:
        for task in self._tasks:
            task.cancel()

    async def _watch(self) -> None:
        with contextlib.suppress(MediaStreamError):
            while True:
                frame = await self.track.recv()
                assert isinstance(frame, av.VideoFrame)
                if self.sight.wants(self.source):
                    self.sight.take(Picture(self.source, await asyncio.to_thread(to_jpeg, frame)))
        self.sight.hide(self.source)

    async def _ask(self) -> None:
        """For the next key frame: a client sends none by itself."""
        while True:
            await asyncio.sleep(EVERY_S)
            while not self.sight.wants(self.source):
                await asyncio.sleep(REQUESTED_S)
            for each in self.receiver.getSynchronizationSources():
                await self.receiver._send_rtcp_pli(each.source)

    def _on_large(self, width: int, height: int) -> None:
        if not self._reported:
            self._reported = True
            rule = f"must have at most {MAX_PIXELS / 1e6:g} million"
            self.sight.on_event(
                {"type": "error", "message": f"The {self.source} has {width} x {height} pixels, {rule}."}
            )


def to_jpeg(frame: av.VideoFrame) -> bytes:
    """A picture that fits `PICTURE_BYTES`."""
    image = frame.to_image()
    image.thumbnail((LONGEST_PX, LONGEST_PX))
    for quality in QUALITIES:
        buffer = io.BytesIO()
        image.save(buffer, "JPEG", quality=quality)
        if buffer.tell() <= PICTURE_BYTES:
            break
    return buffer.getvalue()
