"""The two media tracks of a connection. Sound keeps the time, and hands each frame to the picture when it is due.

aiortc's own clock assumes 30 frames per second; here every time stamp is media time, counted in samples.
"""

import asyncio
import time
from fractions import Fraction

import av
import numpy as np
from aiortc import MediaStreamTrack
from aiortc.codecs import vpx
from aiortc.mediastreams import VIDEO_CLOCK_RATE

from gwm.clock import FPS
from gwm.resolution import Resolution
from serve.live.avatar.playout import Pixels, Playout

PACKET_S = 0.02
WAITING_FRAMES = 2  # for the encoder; of more, the oldest are left out
LATE_S = 0.2  # behind the clock by more than this, the clock is set anew instead of sending a burst

BITS = 0.24  # for each pixel of a frame, at most: a speaking face at 720 px comes through VP8 with 39.5 dB
MIN_BITS_PER_S, MAX_BITS_PER_S = 1_500_000, 6_000_000  # at most, of small and of large pictures


def video_bits_per_s(frame: Resolution) -> int:
    """That a session's picture may take, at most."""
    return max(MIN_BITS_PER_S, min(MAX_BITS_PER_S, round(BITS * frame.height * frame.width * FPS)))


def set_video_bitrate(frame: Resolution) -> None:
    """How much all VP8 encoders of this process may send: enough for pictures of this size, where the network carries
    it. aiortc's own numbers are for small pictures: at 720 px they leave 35 dB at first and 38 later."""
    vpx.MAX_BITRATE = video_bits_per_s(frame)
    vpx.DEFAULT_BITRATE = vpx.MAX_BITRATE // 2


class FaceTrack(MediaStreamTrack):
    """Frames with the time stamps they are shown with."""

    kind = "video"

    def __init__(self, sample_rate: int) -> None:
        super().__init__()
        self.ticks = Fraction(VIDEO_CLOCK_RATE, sample_rate)
        self.sent = self.dropped = 0
        self._frames: asyncio.Queue[tuple[int, Pixels, float]] = asyncio.Queue(WAITING_FRAMES)

    def show(self, sample: int, pixels: Pixels, *, due_s: float) -> None:
        """due_s: on the monotonic clock; not before then is the frame sent."""
        if self._frames.full():
            self._frames.get_nowait()
            self.dropped += 1
        self._frames.put_nowait((sample, pixels, due_s))

    async def recv(self) -> av.VideoFrame:
        sample, pixels, due_s = await self._frames.get()
        # aiortc reports the moment of sending as the moment of the frame, and the browser aligns the sound with that.
        await asyncio.sleep(due_s - time.monotonic())
        frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(pixels), format="rgb24")
        frame.pts, frame.time_base = int(sample * self.ticks), Fraction(1, VIDEO_CLOCK_RATE)
        self.sent += 1
        return frame


class VoiceTrack(MediaStreamTrack):
    """The playout's sound in packets of 20 ms, silence included."""

    kind = "audio"

    def __init__(self, playout: Playout, face: FaceTrack, sample_rate: int) -> None:
        super().__init__()
        self.playout, self.face, self.sample_rate = playout, face, sample_rate
        self.packet_samples = round(PACKET_S * sample_rate)
        self.sent_samples = 0
        self._start_s: float | None = None

    async def recv(self) -> av.AudioFrame:
        begin_s = time.monotonic()
        wait_s = self.wait_s(begin_s)
        await asyncio.sleep(wait_s)
        part = self.playout.advance(self.packet_samples)
        for offset, pixels in part.frames:
            self.face.show(self.sent_samples + offset, pixels, due_s=begin_s + wait_s + offset / self.sample_rate)
        frame = av.AudioFrame.from_ndarray(part.voice[None], format="s16", layout="mono")
        frame.sample_rate, frame.pts = self.sample_rate, self.sent_samples
        frame.time_base = Fraction(1, self.sample_rate)
        self.sent_samples += self.packet_samples
        return frame

    def wait_s(self, now_s: float) -> float:
        """Until the next packet is due; zero or less when it is late."""
        sent_s = self.sent_samples / self.sample_rate
        if self._start_s is None or now_s - self._start_s - sent_s > LATE_S:
            self._start_s = now_s - sent_s
        return self._start_s + sent_s - now_s
