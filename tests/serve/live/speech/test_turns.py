"""What is told of a conversation, with a clock that is turned by hand."""

import asyncio
from typing import Any

import numpy as np
import pytest
from pipecat.frames.frames import (
    BotStartedSpeakingFrame,
    Frame,
    InterruptionFrame,
    LLMFullResponseEndFrame,
    LLMFullResponseStartFrame,
    LLMTextFrame,
    TranscriptionFrame,
    TTSAudioRawFrame,
    UserStoppedSpeakingFrame,
    VADUserStartedSpeakingFrame,
    VADUserStoppedSpeakingFrame,
)
from pipecat.observers.base_observer import FramePushed
from pipecat.processors.frame_processor import FrameDirection, FrameProcessor

from serve.live.avatar.performer import Performer
from serve.live.speech.turns import SILENT_MODEL, Event, TurnObserver
from tests.serve.live.level_face import played

RATE = 24_000


class Clock:
    now = 100.0

    def __call__(self) -> float:
        return self.now


async def push(observer: TurnObserver, *frames: Frame) -> None:
    somewhere: Any = FrameProcessor()
    for frame in frames:
        await observer.on_push_frame(FramePushed(somewhere, somewhere, frame, FrameDirection.DOWNSTREAM, 0))


def test_parts_of_an_answers_delay_add_up_from_the_end_of_speech_to_its_first_frame():
    clock, events = Clock(), list[Event]()
    observer = TurnObserver(events.append, clock=clock)

    async def run() -> None:
        await push(observer, VADUserStoppedSpeakingFrame(0.2, timestamp=100.0))
        for delay_s, frame in (
            (0.1, TranscriptionFrame("Hi", "", "")),
            (0.05, UserStoppedSpeakingFrame()),
            (0.3, LLMTextFrame("Hello")),
            (0.25, TTSAudioRawFrame(b"", RATE, 1)),
        ):
            clock.now += delay_s
            await push(observer, frame)
        clock.now += 0.04
        observer.rendered()
        clock.now += 0.16
        await push(observer, BotStartedSpeakingFrame())

    asyncio.run(run())
    (latency,) = (event for event in events if event["type"] == "latency")
    parts = {"stt_ms": 300, "turn_ms": 50, "llm_ms": 300, "tts_ms": 250, "chunk_ms": 40, "pacing_ms": 160}
    assert latency == {"type": "latency", "total_ms": 1_100, **parts} and sum(parts.values()) == 1_100


@pytest.mark.parametrize("pipeline_s", [0.0, 0.06])
def test_silence_after_an_interruption_is_timed_to_the_last_sample_that_is_sent(
    performer: Performer, pipeline_s: float
):
    """Not more than a packet after the pipeline has passed the interruption on; 150 ms are allowed."""
    events, onsets = list[Event](), list[int]()
    observer = TurnObserver(events.append, clock=lambda: performer.playout.played_samples / RATE)

    async def script(play) -> None:
        performer.say(np.full(3 * RATE, 0.5, np.float32), generation=0)
        await play(1)
        onsets.append(performer.playout.played_samples)
        found = VADUserStartedSpeakingFrame(0.2, timestamp=onsets[0] / RATE)
        await push(observer, BotStartedSpeakingFrame(), found)
        await play(pipeline_s)
        performer.interrupt(observer.silent)
        await play(1)

    voice, _ = played(performer, script)
    (silenced,) = (event for event in events if event["type"] == "silenced")
    last_ms = 1000 * (np.flatnonzero(voice)[-1] - (len(voice) - performer.playout.played_samples) - onsets[0]) / RATE
    assert 1000 * pipeline_s <= last_ms <= 1000 * pipeline_s + 5
    assert abs(silenced["after_ms"] - last_ms) <= 20 and silenced["after_ms"] <= 150


@pytest.mark.parametrize(
    ("between", "told"),
    [([], True), ([LLMTextFrame("Hello")], False), ([InterruptionFrame()], False)],
    ids=["nothing", "words", "interruption"],
)
def test_a_model_that_says_nothing_is_told_unless_it_was_interrupted(between: list[Frame], told: bool):
    events = list[Event]()
    observer = TurnObserver(events.append)
    asyncio.run(push(observer, LLMFullResponseStartFrame(), *between, LLMFullResponseEndFrame()))
    assert ({"type": "error", "message": SILENT_MODEL} in events) == told
