"""The engine behind LiveKit's VideoGenerator: with LiveKit's own types where installed, else with their shape."""

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from importlib.util import find_spec
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from gwm.optional import MissingPackageError
from serve.live.avatar.performer import FaceLostError, Performer
from serve.live.avatar.video_generator import HELD_FRAMES, VideoGenerator, livekit_generator
from tests.serve.live.level_face import TIMING, LevelFace

FRAME = TIMING.frame_samples
INSTALLED = find_spec("livekit.agents") is not None


@dataclass
class FakeAudio:
    data: bytes
    sample_rate: int
    num_channels: int
    samples_per_channel: int


@dataclass
class FakeVideo:
    width: int
    height: int
    type: str
    data: bytes


class FakeEnd: ...


def generator() -> VideoGenerator:
    performer = Performer(LevelFace(), TIMING)
    if INSTALLED:
        return livekit_generator(performer)
    rtc = SimpleNamespace(AudioFrame=FakeAudio, VideoFrame=FakeVideo, VideoBufferType=SimpleNamespace(RGB24="RGB24"))
    return VideoGenerator(performer, rtc=rtc, segment_end=FakeEnd)


def generated(frames: int, script: Callable[[VideoGenerator, int], Awaitable[None]]) -> list[Any]:
    """What comes until so many pictures; `script` acts before each."""
    made, kept = generator(), []

    async def run() -> None:
        count = 0
        async for item in made:
            kept.append(item)
            if isinstance(item, made.rtc.VideoFrame):
                count += 1
                await script(made, count)
                if count == frames:
                    return

    asyncio.run(asyncio.wait_for(run(), 10))
    return kept


def sound(made: VideoGenerator, voice: np.ndarray, *, channels: int = 1) -> Any:
    samples = np.repeat((voice * 32767).astype(np.int16), channels)
    return made.rtc.AudioFrame(samples.tobytes(), TIMING.sample_rate, channels, len(voice))


def kinds(items: list[Any]) -> str:
    """V, A or E for each."""
    return "".join(
        "V" if type(item).__name__ in ("FakeVideo", "VideoFrame") else "A" if hasattr(item, "num_channels") else "E"
        for item in items
    )


def level(video: Any) -> int:
    return int(np.frombuffer(video.data, np.uint8)[0])


def loudness(audio: Any) -> float:
    return float(np.abs(np.frombuffer(audio.data, np.int16)).max()) / 32767


@pytest.mark.parametrize("channels", [1, 2])
def test_a_segment_comes_back_as_pictures_their_sound_and_its_end(channels: int):
    async def script(made: VideoGenerator, count: int) -> None:
        if count == 10:
            for part in np.split(np.full(6 * FRAME, 0.5, np.float32), 3):
                await made.push_audio(sound(made, part, channels=channels))
            await made.push_audio(made.segment_end())

    items = generated(60, script)
    order = kinds(items)
    assert order.count("A") == 6 and order.count("E") == 1 and "VAVAVAVAVAVAEV" in order
    assert all(abs(loudness(item) - 0.5) < 0.01 for item in items if kinds([item]) == "A")
    levels = [level(item) for item in items if kinds([item]) == "V"]
    bright = [place for place, seen in enumerate(levels) if seen]
    assert bright == list(range(bright[0], bright[0] + 6))  # the mouth rests before and after
    assert order[: order.index("A")].count("V") == bright[0] + 1 + HELD_FRAMES


def test_cleared_speech_is_heard_no_more_and_the_picture_goes_on_to_rest():
    cleared: list[int] = []

    async def script(made: VideoGenerator, count: int) -> None:
        if count == 10:
            await made.push_audio(sound(made, np.full(100 * FRAME, 0.5, np.float32)))
        if count == 40:
            made.clear_buffer()
            cleared.append(count)

    order, items = "", generated(70, script)
    order = kinds(items)
    assert "A" in order and "E" not in order
    last = max(place for place, kind in enumerate(order) if kind == "A")
    assert order[:last].count("V") <= 40 and order.count("A") < 40 - 10  # what was held is forgotten too
    assert level(items[-1]) == 0


def test_the_next_segment_after_a_cleared_one_is_heard_whole():
    async def script(made: VideoGenerator, count: int) -> None:
        if count in (5, 40):
            await made.push_audio(sound(made, np.full((100 if count == 5 else 3) * FRAME, 0.5, np.float32)))
        if count == 30:
            made.clear_buffer()
        if count == 40:
            await made.push_audio(made.segment_end())

    items = generated(80, script)
    order = kinds(items)
    assert order.count("E") == 1
    after = [place for place, kind in enumerate(order) if kind == "V"][31]
    assert order[after:].count("A") == 3


def test_speech_at_another_rate_is_refused():
    made = generator()
    frame = made.rtc.AudioFrame(bytes(320), 16_000, 1, 160)
    with pytest.raises(ValueError, match="16000 Hz must have the engine's 24000 Hz"):
        asyncio.run(made.push_audio(frame))


def test_an_engine_that_does_not_start_ends_the_iteration_with_its_error():
    made = generator()
    assert isinstance(made.performer.face, LevelFace)
    made.performer.face.lost = True

    async def run() -> None:
        async for _ in made:
            pass

    with pytest.raises(FaceLostError):
        asyncio.run(asyncio.wait_for(run(), 5))


@pytest.mark.skipif(INSTALLED, reason="livekit-agents is installed")
def test_without_livekit_its_command_is_named():
    with pytest.raises(MissingPackageError, match="pip install livekit-agents"):
        livekit_generator(Performer(LevelFace(), TIMING))


@pytest.mark.skipif(not INSTALLED, reason="livekit-agents is not installed")
def test_every_method_that_livekit_asks_for_is_there():
    from livekit.agents.voice.avatar import VideoGenerator as Theirs

    assert all(name in VideoGenerator.__dict__ for name in Theirs.__abstractmethods__)
