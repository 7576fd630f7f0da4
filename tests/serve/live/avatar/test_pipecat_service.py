"""The avatar in somebody else's pipeline, with pipecat's own output transport."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

import numpy as np
from pipecat.frames.frames import (
    EndFrame,
    ErrorFrame,
    Frame,
    InputAudioRawFrame,
    InterruptionFrame,
    OutputAudioRawFrame,
    OutputImageRawFrame,
    StartFrame,
    TTSAudioRawFrame,
    TTSStartedFrame,
    TTSStoppedFrame,
    TTSTextFrame,
)
from pipecat.observers.base_observer import BaseObserver, FramePushed
from pipecat.pipeline.pipeline import Pipeline
from pipecat.pipeline.worker import PipelineParams, PipelineWorker
from pipecat.transports.base_output import BaseOutputTransport
from pipecat.transports.base_transport import TransportParams
from pipecat.utils.text.base_text_aggregator import TextType
from pipecat.workers.runner import WorkerRunner

from serve.bench import turned_clock
from serve.live.avatar.performer import Performer
from serve.live.avatar.pipecat_service import AvatarService
from tests.serve.live.level_face import TIMING, LevelFace

RATE, FRAME = TIMING.sample_rate, TIMING.frame_samples


class Screen(BaseOutputTransport):
    """What a person would see and hear: levels of frames, and samples, in their order."""

    def __init__(self) -> None:
        params = TransportParams(
            audio_out_enabled=True,
            audio_out_sample_rate=RATE,
            video_out_enabled=True,
            video_out_width=16,
            video_out_height=16,
        )
        super().__init__(params)
        self.voice: list[np.ndarray] = []
        self.shown: list[int] = []  # level of each frame

    async def start(self, frame: StartFrame) -> None:
        await super().start(frame)
        await self.set_transport_ready(frame)

    async def write_audio_frame(self, frame: OutputAudioRawFrame) -> bool:
        self.voice.append(np.frombuffer(frame.audio, np.int16))
        await asyncio.sleep(frame.num_frames / RATE)
        return True

    async def write_video_frame(self, frame: OutputImageRawFrame) -> bool:
        self.shown.append(frame.image[0])
        return True

    @property
    def heard(self) -> np.ndarray:
        return np.concatenate([np.zeros(0, np.int16), *self.voice])


class Watch(BaseObserver):
    """Frames in the order in which they leave the avatar."""

    def __init__(self, service: AvatarService) -> None:
        super().__init__(observe_every_push=True)
        self.service, self.frames, self.errors = service, list[Frame](), list[str]()

    async def on_push_frame(self, data: FramePushed) -> None:
        if data.source is self.service:
            self.frames.append(data.frame)
        if isinstance(data.frame, ErrorFrame):
            self.errors.append(data.frame.error)

    def order(self) -> list[Any]:
        """A number for a frame's level, "sound", a word, or "end"."""
        named = []
        for frame in self.frames:
            if isinstance(frame, OutputImageRawFrame):
                named.append(frame.image[0])
            elif isinstance(frame, TTSAudioRawFrame):
                named.append("sound")
            elif isinstance(frame, TTSTextFrame):
                named.append(frame.text)
            elif isinstance(frame, TTSStoppedFrame):
                named.append("end")
        return named


def watched(
    script: Callable[[PipelineWorker, Watch, Screen], Awaitable[None]], face: LevelFace | None = None
) -> tuple[Watch, Screen]:
    async def run() -> tuple[Watch, Screen]:
        service, screen = AvatarService(Performer(face or LevelFace(), TIMING)), Screen()
        watch = Watch(service)
        params = PipelineParams(audio_in_sample_rate=16_000, audio_out_sample_rate=RATE)
        worker = PipelineWorker(
            Pipeline([service, screen]), params=params, enable_rtvi=False, observers=[watch], idle_timeout_secs=None
        )
        runner = WorkerRunner(handle_sigint=False)
        await runner.add_workers(worker)
        running = asyncio.create_task(runner.run())
        try:
            await until(lambda: watch.frames)
            await script(worker, watch, screen)
        finally:
            await worker.cancel()
            await asyncio.wait([running], timeout=3)
        return watch, screen

    return turned_clock.run(run())


async def until(condition: Callable[[], object]) -> None:
    async with asyncio.timeout(60):
        while not condition():
            await asyncio.sleep(0.02)


async def speak(worker: PipelineWorker, frames: int, text: str = "") -> None:
    """So many frames of a voice that makes the face 50 bright."""
    await worker.queue_frame(TTSStartedFrame())
    voice = np.full(FRAME * frames, 16_384, np.int16).tobytes()
    await worker.queue_frame(TTSAudioRawFrame(voice, RATE, 1))
    if text:
        await worker.queue_frame(TTSTextFrame(text, text_type=TextType.SENTENCE))
    await worker.queue_frame(TTSStoppedFrame())


def test_speech_comes_out_with_its_frames_its_words_and_then_its_end():
    async def script(worker: PipelineWorker, watch: Watch, screen: Screen) -> None:
        await speak(worker, 24, "one two three four")
        await until(lambda: "end" in watch.order())
        await asyncio.sleep(0.5)

    watch, screen = watched(script)
    order = watch.order()
    end, sounds = order.index("end"), [place for place, what in enumerate(order) if what == "sound"]
    assert 24 <= len(sounds) <= 25 and sounds[-1] < end and len(order) > end + 5  # the picture goes on
    assert all(order[place - 1] == 50 for place in sounds[:24])  # each frame before its sound
    words = [what for what in order if isinstance(what, str) and what not in ("sound", "end")]
    assert words == ["one", "two", "three", "four"]
    assert sounds[3] < order.index("one") < sounds[8] and sounds[14] < order.index("three") < sounds[20]
    assert (screen.heard != 0).sum() == 24 * FRAME and set(screen.shown) >= {0, 50}


def test_an_interruption_drops_what_lies_ready_and_the_mouth_closes():
    async def script(worker: PipelineWorker, watch: Watch, screen: Screen) -> None:
        await speak(worker, 240, "never said whole")
        await until(lambda: watch.order().count("sound") > 12)
        await worker.queue_frame(InterruptionFrame())
        await until(lambda: any(isinstance(frame, InterruptionFrame) for frame in watch.frames))
        del watch.frames[:]
        await until(lambda: watch.order()[-3:] == [0, 0, 0])
        assert set(watch.order()) <= {0, 50}  # neither sound, nor words, nor an end
        await speak(worker, 6)
        await until(lambda: "end" in watch.order())

    watch, _ = watched(script)
    assert 6 <= watch.order().count("sound") <= 7  # the next speech is whole


def test_the_end_of_the_pipeline_waits_until_everything_is_said():
    async def script(worker: PipelineWorker, watch: Watch, screen: Screen) -> None:
        await speak(worker, 24)
        await worker.queue_frame(EndFrame())
        await until(lambda: any(isinstance(frame, EndFrame) for frame in watch.frames))
        assert watch.order().count("sound") >= 24

    watched(script)


def test_without_an_engine_the_voice_passes_and_the_error_is_told():
    face = LevelFace()
    face.lost = True

    async def script(worker: PipelineWorker, watch: Watch, screen: Screen) -> None:
        await until(lambda: watch.errors)
        await speak(worker, 12)
        await until(lambda: len(screen.heard) >= 12 * FRAME)

    watch, screen = watched(script, face)
    assert set(watch.errors) == {"there is no avatar: gone."} and not screen.shown


def test_an_engine_that_is_lost_later_leaves_the_voice_in_time():
    face = LevelFace()

    async def script(worker: PipelineWorker, watch: Watch, screen: Screen) -> None:
        await until(lambda: screen.shown)
        face.lost = True
        await speak(worker, 24)
        await until(lambda: "end" in watch.order())

    watch, _ = watched(script, face)
    assert 24 <= watch.order().count("sound") <= 25 and watch.order().count(50) == 0


def test_the_users_sound_reaches_the_engine_at_its_rate():
    face = LevelFace()

    async def script(worker: PipelineWorker, watch: Watch, screen: Screen) -> None:
        for _ in range(25):
            await worker.queue_frame(InputAudioRawFrame(np.full(320, 8_192, np.int16).tobytes(), 16_000, 1))
            await asyncio.sleep(0.02)
        await until(lambda: any(abs(np.median(user) - 0.25) < 0.01 for user in face.users))
        assert sum(isinstance(frame, InputAudioRawFrame) for frame in watch.frames) == 25  # for whoever listens after

    watched(script, face)
