"""A visitor's voice as it arrives, at the two rates at which it is needed."""

import asyncio
from collections.abc import Awaitable, Callable

import av
import numpy as np
from aiortc import MediaStreamTrack
from aiortc.mediastreams import MediaStreamError

from serve.live.avatar.voice_buffers import Sound
from serve.live.speech.recogniser import SAMPLE_RATE

# 16-bit for the agent, float for the engine.
Heard = Callable[[bytes, Sound], Awaitable[None]]


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
