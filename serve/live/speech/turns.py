"""State, captions and latency of a conversation, as events for the page and for operators."""

import logging
import time
from collections.abc import Callable
from typing import Any

from pipecat.frames.frames import (
    BotStartedSpeakingFrame,
    BotStoppedSpeakingFrame,
    ErrorFrame,
    FunctionCallsStartedFrame,
    InterruptionFrame,
    LLMFullResponseEndFrame,
    LLMFullResponseStartFrame,
    LLMTextFrame,
    TranscriptionFrame,
    TTSAudioRawFrame,
    TTSTextFrame,
    UserStartedSpeakingFrame,
    UserStoppedSpeakingFrame,
    VADUserStartedSpeakingFrame,
    VADUserStoppedSpeakingFrame,
)
from pipecat.observers.base_observer import BaseObserver, FramePushed
from pipecat.processors.frame_processor import FrameDirection
from pipecat.services.llm_service import LLMService
from pipecat.services.stt_service import STTService
from pipecat.services.tts_service import TTSService
from pipecat.utils.text.base_text_aggregator import TextType

from serve.live.speech.endpoint_failures import EndpointError
from serve.live.speech.endpoint_llm import NoticeFrame
from serve.live.traces import SessionTrace

log = logging.getLogger(__name__)

Event = dict[str, Any]
# The parts of an answer's delay, each by the frame that ends it; between the last two the engine draws ("chunk").
PARTS = {
    TranscriptionFrame: "stt",
    UserStoppedSpeakingFrame: "turn",
    LLMTextFrame: "llm",
    TTSAudioRawFrame: "tts",
    BotStartedSpeakingFrame: "pacing",
}
# For the person who talks; what exactly went wrong is in the log.
FAILURES = {
    STTService: "Speech recognition does not work at the moment. Say it again, or write.",
    LLMService: "The language model does not answer at the moment. Try again.",
    TTSService: "The voice does not work at the moment. Try again.",
}
SILENT_MODEL = "The language model said nothing. Try again."


class TurnObserver(BaseObserver):
    """Calls `on_event` with JSON of a type: state, caption, latency, interrupted, silenced, notice or
    error.

    The latency counts from the end of speech, which is when the voice detector found silence minus the silence it
    waits for, to the first frame of the answer as it is sent. Its parts add up to it. "silenced" counts from when the
    detector found the voice that interrupts to the last sample that is sent of the one that is interrupted.

    clock: seconds, of the same origin as the detector's time stamps.
    """

    def __init__(self, on_event: Callable[[Event], None], *, clock: Callable[[], float] = time.time) -> None:
        super().__init__(observe_every_push=False)
        self.on_event, self.clock = on_event, clock
        self.trace: SessionTrace | None = None  # of which turns are spans
        self._ends: dict[str, float] = {}  # when each part ended
        self._speech_end_s: float | None = None
        self._onset_s: float | None = None
        self._talking = self._wordless = False
        self._explained: object = None  # the part whose failure in this turn was reported with its cause

    async def on_push_frame(self, data: FramePushed) -> None:
        frame = data.frame
        if isinstance(frame, ErrorFrame):
            self._fail(frame)
        if isinstance(frame, NoticeFrame):
            self.on_event({"type": "notice", "message": frame.text})
        if data.direction is not FrameDirection.DOWNSTREAM:
            return  # what is broadcast goes both ways
        self._time(frame)
        if isinstance(frame, UserStartedSpeakingFrame):
            self.on_event({"type": "state", "state": "listening"})
        elif isinstance(frame, LLMFullResponseStartFrame):
            self._wordless, self._explained = True, None
            self.on_event({"type": "state", "state": "thinking"})
        elif isinstance(frame, FunctionCallsStartedFrame):
            self._wordless = False  # the answer comes after the result
        elif isinstance(frame, LLMFullResponseEndFrame) and self._wordless:
            self._say_wrong(SILENT_MODEL)
        elif isinstance(frame, (BotStartedSpeakingFrame, BotStoppedSpeakingFrame)):
            self._talking = isinstance(frame, BotStartedSpeakingFrame)
            self.on_event({"type": "state", "state": "talking" if self._talking else "listening"})
        elif isinstance(frame, InterruptionFrame):
            self._wordless = False  # it had no time to speak
            if self._talking:
                self.on_event({"type": "interrupted"})
        elif isinstance(frame, TranscriptionFrame):
            self.on_event({"type": "caption", "who": "user", "text": frame.text})
        elif isinstance(frame, TTSTextFrame) and frame.text_type is TextType.WORD:
            self.on_event({"type": "caption", "who": "character", "text": frame.text})

    def rendered(self) -> None:
        """The engine has the first chunk of the answer ready."""
        if self._speech_end_s is not None:
            self._ends.setdefault("chunk", self.clock())

    def silent(self) -> None:
        """The last sample of an interrupted answer is sent."""
        if self._onset_s is not None:
            self.on_event({"type": "silenced", "after_ms": round(1000 * (self.clock() - self._onset_s))})
            self._onset_s = None

    def _fail(self, frame: ErrorFrame) -> None:
        """The cause where it is known; what pipecat reports of the same part after it says less."""
        log.warning("%s: %s", frame.processor, frame.error)
        if isinstance(frame.exception, EndpointError):
            self._explained = frame.processor
            return self._say_wrong(str(frame.exception))
        if frame.processor is not None and frame.processor is self._explained:
            return
        known = (text for kind, text in FAILURES.items() if isinstance(frame.processor, kind))
        self._say_wrong(next(known, frame.error))

    def _say_wrong(self, message: str) -> None:
        self._wordless = False
        self.on_event({"type": "error", "message": message})
        self.on_event({"type": "state", "state": "listening"})

    def _time(self, frame: object) -> None:
        if isinstance(frame, VADUserStartedSpeakingFrame):
            self._onset_s = frame.timestamp if self._talking else None
        if isinstance(frame, VADUserStoppedSpeakingFrame):
            self._speech_end_s, self._ends = frame.timestamp - frame.stop_secs, {}
            if self.trace is not None:
                self.trace.begin_turn(self._speech_end_s)
        if isinstance(frame, LLMTextFrame):
            self._wordless = False
        part = PARTS.get(type(frame))
        if part is None or self._speech_end_s is None:
            return
        self._ends.setdefault(part, self.clock())
        if part == "pacing":
            self.on_event(self._latency(self._speech_end_s))
            self._speech_end_s = None

    def _latency(self, begin: float) -> Event:
        parts, last, ends = {}, begin, dict(sorted(self._ends.items(), key=lambda item: item[1]))
        if self.trace is not None:
            self.trace.end_turn(ends, begin)
        for name, end in ends.items():
            parts[f"{name}_ms"], last = round(1000 * (end - last)), end
        return {"type": "latency", "total_ms": round(1000 * (last - begin)), **parts}
