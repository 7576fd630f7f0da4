"""What a pause sets off: recognition, an answer, the end of the turn; on a turned clock, as in `test_agent`."""

import asyncio
import gc
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
from pipecat.audio.turn.smart_turn.local_smart_turn_v3 import LocalSmartTurnAnalyzerV3
from pipecat.processors.frame_processor import FrameProcessor

from gwm.media.sound import to_pcm
from serve.bench import turned_clock
from serve.live.low_priority import LowPriority
from serve.live.speech.agent import Services, TurnTaking
from serve.live.speech.pauses import EarlyTurnAnalyzer
from serve.live.speech.recogniser import SAMPLE_RATE
from serve.live.speech.services import LocalSTT, LocalTTS, RuleLLM, small_talk
from serve.live.speech.tools import Tool
from serve.live.vision.sight import ON_REQUEST
from tests.serve.live.speech.test_agent import SAMPLES_PER_LETTER, Conversation, Hum, utterance
from tests.serve.live.speech.test_call_rules import STOCK
from tests.serve.live.vision.test_sight import Setting


class Attentive:
    """Counts what it is given: when, on the loop's clock, and how long it is."""

    def __init__(self) -> None:
        self.calls: list[tuple[float, int]] = []
        self.now = lambda: 0.0

    def transcribe(self, voice: np.ndarray) -> str:
        self.calls.append((self.now(), len(voice)))
        return f"Utterance {len(self.calls)}."


def test_recognition_begins_at_the_pause_and_only_the_last_pause_counts():
    """Two sentences with a short pause between them, then silence: the turn is over 0.2 s after the end, its text
    was begun before."""
    recogniser = Attentive()
    loud = [utterance("Good morning to you."), utterance("Hello!")]
    pause = np.zeros(round(0.2 * SAMPLE_RATE))  # a little of it still sounds like speech
    sound = np.concatenate([loud[0], pause, loud[1], np.zeros(SAMPLE_RATE)])
    end_s = (len(sound) - SAMPLE_RATE) / SAMPLE_RATE

    async def run() -> Conversation:
        pool, loop = LowPriority(), asyncio.get_running_loop()
        recogniser.now = loop.time
        stt = LocalSTT(recogniser, pool)
        conversation = Conversation(Services(stt, RuleLLM(name="Noa"), LocalTTS(Hum(), pool, sample_rate=24_000)))

        async def script(conversation: Conversation) -> None:
            begin = loop.time()
            for packet in np.split(to_pcm(sound), range(320, len(sound), 320)):
                await conversation.agent.push_microphone(packet.tobytes())
                await conversation.play(0.02)
            await conversation.play_until(lambda: conversation.words)
            recogniser.calls = [(at - begin, samples) for at, samples in recogniser.calls]

        await conversation.run(script)
        return conversation

    conversation = turned_clock.run(run())
    (first, short), *_, (last, long) = recogniser.calls
    assert first < (len(loud[0]) + len(pause)) / SAMPLE_RATE + 0.05 and short < long
    assert end_s < last < end_s + 0.1  # half of the silence that ends a turn
    assert conversation.words[0] == f"Utterance {len(recogniser.calls)}."


class Hears:
    """Understands the same words in whatever it is given."""

    def __init__(self, text: str) -> None:
        self.text = text

    def transcribe(self, voice: np.ndarray) -> str:
        return self.text


class Noted(Hum):
    """Notes what it speaks, and when, on the loop's clock."""

    def __init__(self) -> None:
        self.spoken: list[tuple[float, str]] = []
        self.now = lambda: 0.0

    def speak(self, text: str) -> np.ndarray:
        self.spoken.append((self.now(), text))
        return super().speak(text)


SAID = utterance("Good morning to you.")
SAID_S = len(SAID) / SAMPLE_RATE


def asked_aloud(
    question: str,
    voice: Noted,
    llm: FrameProcessor | None = None,
    *,
    pause_s: float | None = None,
    turn_taking: TurnTaking | None = None,
    tools: Sequence[Tool] = (),
) -> tuple[Conversation, float]:
    """What happened when somebody said something that is recognised as `question`, and when they ended. pause_s: before
    they say as much again."""
    loud = SAID
    if pause_s is not None:
        loud = np.concatenate([loud, np.zeros(round(pause_s * SAMPLE_RATE)), loud])

    async def run() -> tuple[Conversation, float]:
        pool, loop = LowPriority(), asyncio.get_running_loop()
        tts = LocalTTS(voice, pool, sample_rate=24_000)
        services = Services(LocalSTT(Hears(question), pool), llm or RuleLLM(name="Noa"), tts)
        conversation = Conversation(services, turn_taking)
        conversation.agent.offer(tools)
        voice.now, ends = loop.time, list[float]()

        async def script(conversation: Conversation) -> None:
            ends.append(loop.time() + len(loud) / SAMPLE_RATE)
            padded = np.append(loud, np.zeros(2 * SAMPLE_RATE))
            for packet in np.split(to_pcm(padded), range(320, len(padded), 320)):
                await conversation.agent.push_microphone(packet.tobytes())
                await conversation.play(0.02)
            await conversation.play_until(lambda: conversation.states[-1:] == ["listening"] and conversation.words)
            await conversation.play_until(lambda: conversation.memory[1:])

        await conversation.run(script)
        return conversation, ends[0]

    return turned_clock.run(run())


def turn_ended_s(conversation: Conversation) -> float:
    return conversation.times[conversation.events.index({"type": "state", "state": "thinking"})]


@pytest.mark.parametrize("sees", [False, True], ids=["blind", "shown nothing"])
def test_an_answer_of_rules_is_begun_in_the_pause_and_spoken_once(sees: bool):
    voice, llm = Noted(), RuleLLM(name="Noa")
    llm.sight = Setting(mode=ON_REQUEST).sight if sees else None
    conversation, _ = asked_aloud("What is your name?", voice, llm)
    answer = small_talk("What is your name?", name="Noa")
    assert conversation.memory == [("user", "What is your name?"), ("assistant", answer)]
    assert " ".join(text for _, text in voice.spoken) == answer
    assert voice.spoken[0][0] < turn_ended_s(conversation) - 0.03


def test_nothing_is_spoken_in_the_pause_where_the_answer_is_that_of_a_tool():
    voice = Noted()
    asked_aloud("Check the stock of teapots.", voice, tools=[STOCK])
    assert " ".join(text for _, text in voice.spoken) == "Check stock: item teapots."


def test_nothing_is_looked_at_before_the_turn_is_over():
    voice, llm = Noted(), RuleLLM(name="Noa")
    llm.sight = Setting(mode=ON_REQUEST).sight
    conversation, _ = asked_aloud("What is on my screen?", voice, llm)
    begun_s, text = voice.spoken[0]
    assert text.startswith("I do not see your screen.") and begun_s >= turn_ended_s(conversation)


@pytest.mark.parametrize(
    ("verdicts", "at_least_s", "at_most_s"), [([1], 0.1, 0.3), ([0, 1], 0.35, 0.55), ([0, 0], 1.5, 1.8)]
)
def test_a_pause_that_did_not_seem_to_be_the_end_is_looked_at_again(
    verdicts: list[int], at_least_s: float, at_most_s: float, monkeypatch: pytest.MonkeyPatch
):
    """Before the longest silence of a turn is over; and no third time."""
    given = list[int]()

    def predict(analyzer: LocalSmartTurnAnalyzerV3, sound: np.ndarray) -> dict[str, float]:
        given.append(verdicts[len(given)] if len(given) < len(verdicts) else 0)
        return {"prediction": given[-1], "probability": 0.5}

    monkeypatch.setattr(LocalSmartTurnAnalyzerV3, "_predict_endpoint", predict)
    conversation, end_s = asked_aloud("What is your name?", Noted())
    assert given == verdicts and at_least_s < turn_ended_s(conversation) - end_s < at_most_s


def test_who_goes_on_speaking_is_not_looked_at_meanwhile(monkeypatch: pytest.MonkeyPatch):
    """A pause of 0.3 s, then more words, in the middle of which the second look would come."""
    looks, begun = list[int](), list[float]()
    begin = EarlyTurnAnalyzer.begin

    def predict(analyzer: LocalSmartTurnAnalyzerV3, sound: np.ndarray) -> dict[str, float]:
        looks.append(len(sound))
        return {"prediction": int(len(looks) > 1), "probability": 0.5}

    def noted_begin(analyzer: EarlyTurnAnalyzer) -> None:
        begun.append(asyncio.get_running_loop().time())
        begin(analyzer)

    monkeypatch.setattr(LocalSmartTurnAnalyzerV3, "_predict_endpoint", predict)
    monkeypatch.setattr(EarlyTurnAnalyzer, "begin", noted_begin)
    conversation, end_s = asked_aloud("Who?", Noted(), pause_s=0.3, turn_taking=TurnTaking(second_look_s=0.6))
    assert len(looks) == len(begun) >= 2 and begun[-1] - begun[0] > SAID_S
    assert turn_ended_s(conversation) > end_s
    assert len(conversation.memory) == 2 and conversation.memory[1][0] == "assistant"


def test_the_turn_model_is_asked_when_the_pause_begins_and_given_its_silence(monkeypatch: pytest.MonkeyPatch):
    given = list[tuple[float, np.ndarray]]()

    def predict(analyzer: LocalSmartTurnAnalyzerV3, sound: np.ndarray) -> dict[str, float]:
        given.append((voice.now(), sound))
        return {"prediction": 1, "probability": 0.9}

    voice = Noted()
    monkeypatch.setattr(LocalSmartTurnAnalyzerV3, "_predict_endpoint", predict)
    conversation, end_s = asked_aloud("What is your name?", voice)
    asked_s, sound = given[-1]
    assert asked_s < end_s + 0.1 < turn_ended_s(conversation)
    silent = round(0.2 * SAMPLE_RATE)
    assert not sound[-silent:].any() and sound[: -silent - 1600].any()


def test_an_answer_that_is_not_given_is_thrown_away():
    """The words that begin it are spoken, and not heard: the rules have another answer when they are asked."""

    class Unsteady(RuleLLM):
        asked = 0

        async def reply(self, heard: str) -> str:
            self.asked += 1
            return "Never heard at all." if self.asked == 1 else "This one."

    voice = Noted()
    conversation, _ = asked_aloud("What is your name?", voice, Unsteady(name="Noa"))
    assert conversation.memory[1] == ("assistant", "This one.")
    heard = sum((part != 0).sum() for part in conversation.voice) / SAMPLES_PER_LETTER
    assert [text for _, text in voice.spoken] == ["Never heard at all.", "This one."] and heard == len("This one.")


def test_what_cannot_be_begun_in_the_pause_fails_for_whoever_asks_and_nowhere_else(caplog: pytest.LogCaptureFixture):
    class Hoarse(Hum):
        def speak(self, text: str) -> np.ndarray:
            raise OSError("no voice")

    async def run() -> None:
        tts = LocalTTS(Hoarse(), LowPriority(), sample_rate=24_000)
        for text in ("Never asked for.", "Asked for."):
            tts.prepare(text)
            assert tts._prepared is not None
            await asyncio.wait([tts._prepared[1]])
        with pytest.raises(OSError, match="no voice"):
            await anext(tts.run_tts("Asked for.", "context"))
        gc.collect()

    asyncio.run(run())
    assert "never retrieved" not in caplog.text


def test_rules_that_fail_in_the_pause_are_asked_again(caplog: pytest.LogCaptureFixture):
    class Fails(RuleLLM):
        asked = 0

        async def reply(self, heard: str) -> str:
            self.asked += 1
            if self.asked == 1:
                raise OSError("no documents")
            return "This one."

    conversation, _ = asked_aloud("What is your name?", Noted(), Fails(name="Noa"))
    assert conversation.memory[1] == ("assistant", "This one.")
    conversation.agent._preparing = None
    gc.collect()
    assert "never retrieved" not in caplog.text


@pytest.mark.parametrize("by", ["sight", "tool"])
def test_nothing_is_begun_in_the_pause_of_what_takes_a_picture_or_calls_a_tool(by: str):
    """Both are done once, when the turn is over."""

    class Counted(RuleLLM):
        asked = 0

        async def reply(self, heard: str) -> str:
            self.asked += 1
            return await super().reply(heard)

    calls, llm = list[dict[str, Any]](), Counted(name="Noa")

    async def call(arguments: dict[str, Any]) -> str:
        calls.append(arguments)
        return "sunny"

    weather = Tool(name="weather", description="Tells the weather.", parameters={}, timeout_s=1.0, run=call)
    if by == "sight":
        llm.sight = Setting(mode=ON_REQUEST).sight
        llm.sight.show("camera")
    asked_aloud("What is the weather?", Noted(), llm, tools=[] if by == "sight" else [weather])
    assert (llm.asked, len(calls)) == ((1, 0) if by == "sight" else (0, 1))
