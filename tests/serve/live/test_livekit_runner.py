"""LiveKit's own AvatarRunner with our engine, its native sources and tracks; only the room is a stand-in.

A room needs LiveKit's server, which no package carries. What is published is read where it would leave this machine.
"""

import asyncio
import time
from collections.abc import Awaitable, Callable
from importlib.util import find_spec
from itertools import pairwise
from typing import Any

import numpy as np
import pytest

from serve.live.avatar.performer import Performer
from serve.live.avatar.video_generator import livekit_generator
from tests.serve.live.level_face import TIMING, LevelFace

pytestmark = pytest.mark.skipif(find_spec("livekit.agents") is None, reason="livekit-agents is not installed")
RATE = TIMING.sample_rate


class Room:
    """One that is connected, and in which everybody subscribes at once."""

    def __init__(self) -> None:
        self.local_participant = self
        self.tracks: list[Any] = []

    def on(self, *event: object) -> None: ...

    def off(self, *event: object) -> None: ...

    def isconnected(self) -> bool:
        return True

    async def publish_track(self, track: Any, options: object) -> "Room":
        self.tracks.append(track)
        return self

    async def wait_for_subscription(self) -> None: ...


class Published:
    """When the sound of both tracks was loud, and their pictures bright."""

    def __init__(self) -> None:
        self.bright: list[tuple[float, bool]] = []
        self.loud: list[tuple[float, bool]] = []
        self.loud_samples = 0

    async def watch(self, audio: Any, video: Any) -> None:
        from livekit import rtc

        pictures = rtc.VideoStream(video, format=rtc.VideoBufferType.RGB24)
        sounds = rtc.AudioStream(audio, sample_rate=RATE, num_channels=1)

        async def see() -> None:
            async for event in pictures:
                self.bright.append((time.monotonic(), np.frombuffer(event.frame.data, np.uint8)[0] > 25))

        async def hear() -> None:
            async for event in sounds:
                loud = np.abs(np.frombuffer(event.frame.data, np.int16)).max() > 4_000
                self.loud.append((time.monotonic(), loud))
                self.loud_samples += loud * event.frame.samples_per_channel

        try:
            await asyncio.gather(see(), hear())
        finally:
            await pictures.aclose()
            await sounds.aclose()


def changes(seen: list[tuple[float, bool]], *, hold_s: float = 0.1) -> list[float]:
    """When it began or ended; a gap of a packet is neither."""
    kept: list[float] = []
    for (_, before), (at, now) in pairwise(seen):
        if before != now:
            kept = kept[:-1] if kept and at - kept[-1] < hold_s else [*kept, at]
    return kept


def ran(script: Callable[[Any, Published], Awaitable[None]]) -> Published:
    """What was published while `script` spoke into the runner."""
    from livekit.agents.voice.avatar import AvatarOptions, AvatarRunner, QueueAudioOutput

    async def run() -> Published:
        room, voice, published = Room(), QueueAudioOutput(sample_rate=RATE), Published()
        runner = AvatarRunner(
            room,  # type: ignore[arg-type]
            audio_recv=voice,
            video_gen=livekit_generator(Performer(LevelFace(), TIMING)),  # type: ignore[arg-type]
            options=AvatarOptions(16, 16, 24, RATE, 1),
        )
        await runner.start()
        while len(room.tracks) < 2:
            await asyncio.sleep(0.02)
        watching = asyncio.create_task(published.watch(*room.tracks))
        try:
            await asyncio.sleep(0.5)
            await script(voice, published)
        finally:
            watching.cancel()
            await asyncio.wait([watching])
            await runner.aclose()
        return published

    return asyncio.run(asyncio.wait_for(run(), 30))


async def say(voice: Any, levels: list[float]) -> None:
    """Half a second of each."""
    from livekit import rtc

    for level in levels:
        for _ in range(5):
            samples = np.full(RATE // 10, level * 32_767, np.int16)
            await voice.capture_frame(rtc.AudioFrame(samples.tobytes(), RATE, 1, len(samples)))
    voice.flush()


def test_the_mouth_moves_with_the_voice_at_24_frames_per_second_and_the_agent_is_told_the_end():
    async def script(voice: Any, published: Published) -> None:
        await say(voice, [0.5, 0.0, 0.5, 0.0, 0.5])
        ended = await voice.wait_for_playout()
        assert abs(ended.playback_position - 2.5) < 0.01 and not ended.interrupted
        await asyncio.sleep(0.3)

    published = ran(script)
    seen, heard = changes(published.bright), changes(published.loud)
    assert len(seen) == len(heard) == 6
    assert abs(np.median(np.array(seen) - heard)) < 0.045
    assert abs(sum(seen[0] <= at < seen[-1] for at, _ in published.bright) - 24 * 2.5) <= 2  # frames of the speech


def test_an_interrupted_voice_is_silent_at_once_and_the_agent_is_told_how_far_it_came():
    before: list[int] = []

    async def script(voice: Any, published: Published) -> None:
        await say(voice, [0.5] * 8)
        await asyncio.sleep(1.2)
        before.append(published.loud_samples)
        voice.clear_buffer()
        ended = await voice.wait_for_playout()
        assert ended.interrupted and 0.5 < ended.playback_position < 1.5
        await asyncio.sleep(0.8)

    published = ran(script)
    assert published.loud_samples - before[0] < 0.15 * RATE
    assert not published.bright[-1][1]  # the mouth has closed, and the picture goes on
