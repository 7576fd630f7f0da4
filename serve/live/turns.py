"""What a conversation looks like from outside: state, captions, and where the time between question and answer went."""

import time
from collections.abc import Callable
from typing import Any

from pipecat.frames.frames import (
    BotStartedSpeakingFrame,
    BotStoppedSpeakingFrame,
    ErrorFrame,
    InterruptionFrame,
    LLMFullResponseStartFrame,
    LLMTextFrame,
    TranscriptionFrame,
    TTSAudioRawFrame,
    TTSTextFrame,
    UserStartedSpeakingFrame,
    UserStoppedSpeakingFrame,
    VADUserStoppedSpeakingFrame,
)
from pipecat.observers.base_observer import BaseObserver, FramePushed
from pipecat.processors.frame_processor import FrameDirection
from pipecat.utils.text.base_text_aggregator import TextType

Event = dict[str, Any]
# The parts of an answer's delay, each by the frame that ends it.
PARTS = {
    TranscriptionFrame: "stt",
    UserStoppedSpeakingFrame: "turn",
    LLMTextFrame: "llm",
    TTSAudioRawFrame: "tts",
    BotStartedSpeakingFrame: "pacing",
}


class TurnObserver(BaseObserver):
    """Calls `on_event` with JSON: {"type": "state" | "caption" | "latency" | "error", ...}.

    The latency counts from the end of speech, which is when the voice detector found silence minus the silence it
    waits for, to the first frame of the answer as it is sent. Its parts add up to it.
    """

    def __init__(self, on_event: Callable[[Event], None]) -> None:
        super().__init__(observe_every_push=False)
        self.on_event = on_event
        self._ends: dict[str, float] = {}  # when each part ended
        self._speech_end_s: float | None = None
        self._talking = False

    async def on_push_frame(self, data: FramePushed) -> None:
        frame = data.frame
        if isinstance(frame, ErrorFrame):
            self.on_event({"type": "error", "message": frame.error})
            self.on_event({"type": "state", "state": "listening"})
        if data.direction is not FrameDirection.DOWNSTREAM:
            return  # what is broadcast goes both ways
        self._time(frame)
        if isinstance(frame, UserStartedSpeakingFrame):
            self.on_event({"type": "state", "state": "listening"})
        elif isinstance(frame, LLMFullResponseStartFrame):
            self.on_event({"type": "state", "state": "thinking"})
        elif isinstance(frame, (BotStartedSpeakingFrame, BotStoppedSpeakingFrame)):
            self._talking = isinstance(frame, BotStartedSpeakingFrame)
            self.on_event({"type": "state", "state": "talking" if self._talking else "listening"})
        elif isinstance(frame, InterruptionFrame) and self._talking:
            self.on_event({"type": "interrupted"})
        elif isinstance(frame, TranscriptionFrame):
            self.on_event({"type": "caption", "who": "user", "text": frame.text})
        elif isinstance(frame, TTSTextFrame) and frame.text_type is TextType.WORD:
            self.on_event({"type": "caption", "who": "character", "text": frame.text})

    def _time(self, frame: object) -> None:
        if isinstance(frame, VADUserStoppedSpeakingFrame):
            self._speech_end_s, self._ends = frame.timestamp - frame.stop_secs, {}
        part = PARTS.get(type(frame))
        if part is None or self._speech_end_s is None:
            return
        self._ends.setdefault(part, time.time())
        if part == "pacing":
            self.on_event(self._latency(self._speech_end_s))
            self._speech_end_s = None

    def _latency(self, begin: float) -> Event:
        parts, last = {}, begin
        for name, end in sorted(self._ends.items(), key=lambda item: item[1]):
            parts[f"{name}_ms"], last = round(1000 * (end - last)), end
        return {"type": "latency", "total_ms": round(1000 * (last - begin)), **parts}
