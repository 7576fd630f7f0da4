"""A character in the shape of LiveKit's VideoGenerator, so that its `AvatarRunner` can publish it in a room.

    runner = AvatarRunner(room, audio_recv=..., video_gen=livekit_generator(performer), options=AvatarOptions(
        video_width=width, video_height=height, video_fps=24, audio_sample_rate=24_000, audio_channels=1))

The agent may be anywhere: whoever asks for the next frame sets the pace, and the performer is ahead of it by its lead.
"""

import asyncio
from collections import deque
from collections.abc import AsyncIterator
from typing import Any

from gwm.media.sound import from_pcm
from gwm.optional import optional_module
from serve.live.avatar.performer import Performer
from serve.live.avatar.playout import Slice
from serve.live.avatar.voice_buffers import Sound

COMMAND = "pip install livekit-agents==1.8.9"
# LiveKit's AVSynchronizer shows a frame after the two that it queues and the one that it waits with, but passes sound
# on at once: without this the voice is heard 113 ms before the mouth moves (livekit 1.1.21, 24 fps).
HELD_FRAMES = 3


def livekit_generator(performer: Performer) -> "VideoGenerator":
    """A generator with LiveKit's own frame types.

    Raises:
        MissingPackageError: livekit-agents is not installed.
    """
    rtc, avatar = (optional_module(name, COMMAND) for name in ("livekit.rtc", "livekit.agents.voice.avatar"))
    return VideoGenerator(performer, rtc=rtc, segment_end=avatar.AudioSegmentEnd)


class VideoGenerator:
    """Speech goes in by `push_audio`; frames, the sound that belongs to them, and ends of segments are iterated.

    Sound comes only between the first sample of a segment and its end: the runner counts it as what was said. It comes
    `HELD_FRAMES` after its picture. The picture never stops. `rtc` and `segment_end` are LiveKit's types, which only a
    machine that uses them needs.
    """

    def __init__(self, performer: Performer, *, rtc: Any, segment_end: type) -> None:
        self.performer, self.rtc, self.segment_end = performer, rtc, segment_end
        self._in_segment = False  # of what was pushed
        self._talking = self._ended = False  # of what is played
        self._held: deque[list[Any]] = deque([[] for _ in range(HELD_FRAMES)])  # what is heard with each picture

    async def push_audio(self, frame: Any) -> None:
        """An `rtc.AudioFrame` at the engine's sample rate, or the end of a segment.

        Raises:
            ValueError: it has another rate.
        """
        generation = self.performer.generation
        if isinstance(frame, self.segment_end):
            self.performer.cue(self._end, generation=generation)
            self._in_segment = False
            return
        voice = self._voice(frame)
        if not self._in_segment:
            self.performer.cue(self._begin, generation=generation)
            self._in_segment = True
        self.performer.say(voice, generation=generation)

    def clear_buffer(self) -> None:
        """Say nothing more; the mouth closes."""
        self.performer.interrupt()
        self._in_segment = self._talking = self._ended = False
        for heard in self._held:
            heard.clear()

    async def __aiter__(self) -> AsyncIterator[Any]:
        """Video frames, the sound that belongs to them, and ends of segments, without end.

        Raises:
            FaceLostError: the engine does not start. One that is lost later is replaced, and the picture waits.
        """
        performing = asyncio.create_task(self.performer.run())
        try:
            while await self._ready(performing):
                talking = self._talking
                part = self.performer.playout.advance(self.performer.timing.frame_samples)
                self._held.append([self._sound(part)] if talking or self._talking else [])
                if self._ended:
                    self._ended = self._talking = False
                    self._held[-1].append(self.segment_end())
                for _, pixels in part.frames:
                    height, width, _ = pixels.shape
                    yield self.rtc.VideoFrame(width, height, self.rtc.VideoBufferType.RGB24, pixels.tobytes())
                for heard in self._held.popleft():
                    yield heard
        finally:
            performing.cancel()

    async def _ready(self, performing: asyncio.Task[None]) -> bool:
        """Wait for a whole frame, or for the performer's end, which is an error."""
        filled = asyncio.create_task(self.performer.playout.wait_until_ready(self.performer.timing.frame_samples))
        await asyncio.wait([filled, performing], return_when=asyncio.FIRST_COMPLETED)
        filled.cancel()
        if performing.done():
            performing.result()
        return not performing.done()

    def _begin(self) -> None:
        self._talking = True

    def _end(self) -> None:
        self._ended = True

    def _sound(self, part: Slice) -> Any:
        rate = self.performer.timing.sample_rate
        return self.rtc.AudioFrame(part.voice.tobytes(), rate, 1, len(part.voice))

    def _voice(self, frame: Any) -> Sound:
        rate = self.performer.timing.sample_rate
        if frame.sample_rate != rate:
            raise ValueError(
                f"speech of {frame.sample_rate} Hz must have the engine's {rate} Hz: set audio_sample_rate."
            )
        return from_pcm(frame.data).reshape(-1, frame.num_channels).mean(axis=1)
