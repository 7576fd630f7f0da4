"""The whole pipeline with a face that draws loudness, a voice that hums, and rules that answer.

Seconds are those of a turned clock: what a thread or a busy machine takes does not count.
"""

import asyncio
import socket
from collections.abc import Awaitable, Callable

import numpy as np
import pytest
import soxr
from pipecat.frames.frames import (
    InterruptionFrame,
    TTSAudioRawFrame,
    TTSSpeakFrame,
    TTSTextFrame,
)
from pipecat.processors.frame_processor import FrameProcessor
from pipecat.utils.text.base_text_aggregator import TextType

from data.speech.espeak import say
from gwm import clock
from gwm.media.sound import to_pcm
from serve.bench import turned_clock
from serve.live.avatar.avatar import Avatar
from serve.live.avatar.performer import Performer
from serve.live.low_priority import LowPriority
from serve.live.speech.agent import WAITING_BYTES, Agent, Services, TurnTaking
from serve.live.speech.endpoint_llm import EndpointLLM
from serve.live.speech.endpoints import Caller, Endpoint
from serve.live.speech.recogniser import SAMPLE_RATE
from serve.live.speech.services import LocalSTT, LocalTTS, RuleLLM, small_talk
from serve.live.speech.turns import Event
from tests.serve.live.level_face import TIMING, LevelFace

SAMPLES_PER_LETTER = 1_200


def utterance(text: str) -> np.ndarray:
    """Speech at 16 kHz, without the silence around it; the same samples whatever was spoken before."""
    spoken = say(text, voice="en-us", rate_wpm=160).samples
    sound = soxr.resample(spoken, clock.SAMPLE_RATE, SAMPLE_RATE)
    return sound[slice(*np.flatnonzero(np.abs(sound) > 0.05)[[0, -1]])]


class Hum:
    """20 letters a second."""

    sample_rate = 24_000

    def speak(self, text: str) -> np.ndarray:
        return np.full(SAMPLES_PER_LETTER * len(text), 0.5, np.float32)


class Slow(LowPriority):
    """Synthesis takes so many seconds, as `seconds` says of the sound."""

    def __init__(self, seconds: Callable[[np.ndarray], float]) -> None:
        super().__init__()
        self.seconds = seconds

    async def run(self, function: Callable[..., np.ndarray], *args: object, **kwargs: object) -> np.ndarray:
        sound = await super().run(function, *args, **kwargs)
        await asyncio.sleep(self.seconds(sound))
        return sound


class Deaf:
    def transcribe(self, voice: np.ndarray) -> str:
        return ""


class Conversation:
    """What happened while a script acted."""

    def __init__(self, services: Services, turn_taking: TurnTaking | None = None) -> None:
        self.events: list[Event] = []
        self.times: list[float] = []  # of the events
        self.voice: list[np.ndarray] = []
        self.performer = Performer(LevelFace(), TIMING)
        self.agent = Agent(
            services,
            self.performer,
            instruction="Be kind.",
            turn_taking=turn_taking or TurnTaking(),
            on_event=self._happened,
        )

    def _happened(self, event: Event) -> None:
        self.events.append(event)
        self.times.append(asyncio.get_running_loop().time())

    async def play(self, seconds: float) -> None:
        for _ in range(round(seconds * 50)):
            self.voice.append(self.performer.playout.advance(480).voice)
            await asyncio.sleep(0.02)

    async def play_until(self, condition: Callable[[], object]) -> None:
        for _ in range(200):
            if condition():
                return
            await self.play(0.5)
        raise AssertionError(f"did not happen; what did: {self.events}")

    async def run(self, script: Callable[["Conversation"], Awaitable[None]]) -> None:
        tasks = [asyncio.create_task(work) for work in (self.performer.run(), self.agent.run())]
        try:
            await asyncio.wait_for(self.agent.started.wait(), 10)
            await script(self)
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.wait(tasks, timeout=5)

    @property
    def states(self) -> list[str]:
        return [event["state"] for event in self.events if event["type"] == "state"]

    @property
    def words(self) -> list[str]:
        return [event["text"] for event in self.events if event["type"] == "caption"]

    @property
    def memory(self) -> list[tuple[str, str]]:
        return [(message["role"], message["content"]) for message in self.agent.context.messages[1:]]


def happened(
    script: Callable[[Conversation], Awaitable[None]],
    llm: FrameProcessor | None = None,
    speaking: LowPriority | None = None,
) -> Conversation:
    async def run() -> Conversation:
        pool = LowPriority()
        stt, tts = LocalSTT(Deaf(), pool), LocalTTS(Hum(), speaking or pool, sample_rate=24_000)
        conversation = Conversation(Services(stt, llm or RuleLLM(name="Noa"), tts))
        await conversation.run(script)
        return conversation

    return turned_clock.run(run())


def test_an_answer_is_performed_captioned_and_remembered():
    async def script(conversation: Conversation) -> None:
        await conversation.agent.read("What is your name?")
        await conversation.play(8)

    conversation = happened(script)
    answer = small_talk("What is your name?", name="Noa")
    assert conversation.words == answer.split()
    assert conversation.memory == [("user", "What is your name?"), ("assistant", answer)]
    assert conversation.states == ["thinking", "talking", "listening"]
    heard = sum((voice != 0).sum() for voice in conversation.voice) / SAMPLES_PER_LETTER
    assert heard == len(answer) - 2  # a sentence, a clause and the rest, without the spaces between them


def test_a_voice_that_takes_its_time_is_not_lost():
    """pipecat's own time-out is 3 s; a busy machine needs longer for a long sentence."""

    async def script(conversation: Conversation) -> None:
        await conversation.agent.speak("Here I am.")
        await conversation.play_until(lambda: conversation.states[-1:] == ["listening"])

    conversation = happened(script, speaking=Slow(lambda sound: 3.3))
    assert conversation.words == ["Here", "I", "am."]
    assert not [event for event in conversation.events if event["type"] == "error"]


def test_what_was_said_unasked_is_remembered_too():
    """A greeting ends with a frame of its own, which must not overtake the words."""

    async def script(conversation: Conversation) -> None:
        await conversation.agent.speak("Good to see you.")
        await conversation.play_until(lambda: conversation.memory)

    assert happened(script).memory == [("assistant", "Good to see you.")]


def test_words_are_captioned_when_they_are_heard_and_not_before():
    async def script(conversation: Conversation) -> None:
        await conversation.agent.read("Tell me a story")
        await conversation.play(4)
        said = conversation.performer.speech_queue.said_samples / SAMPLES_PER_LETTER
        heard = sum((voice != 0).sum() for voice in conversation.voice) / SAMPLES_PER_LETTER
        assert said > heard + 100  # the whole story lies ready
        assert abs(sum(len(word) + 1 for word in conversation.words) - heard) < 15

    happened(script)


def test_after_an_interruption_only_what_was_heard_is_remembered():
    async def script(conversation: Conversation) -> None:
        await conversation.agent.read("Tell me a story")
        await conversation.play(4)
        await conversation.agent.worker.queue_frame(InterruptionFrame())
        await conversation.play(0.3)
        conversation.voice.clear()
        await conversation.play(2)

    conversation = happened(script)
    assert not np.concatenate(conversation.voice).any()
    (_, _), (role, remembered) = conversation.memory
    assert role == "assistant" and remembered == " ".join(conversation.words)
    story = small_talk("Tell me a story", name="Noa")
    assert story.startswith(remembered) and 20 < len(remembered) < 120
    assert conversation.states[-1] == "listening" and {"type": "interrupted"} in conversation.events


def test_a_written_question_interrupts_and_comes_after_what_was_heard_in_memory():
    async def script(conversation: Conversation) -> None:
        await conversation.agent.read("Tell me a story")
        await conversation.play_until(lambda: len(conversation.words) > 4)
        await conversation.agent.read("What is your name?")
        await conversation.play_until(lambda: len(conversation.memory) == 4)

    conversation = happened(script)
    asked, (_, heard), again, (_, answer) = conversation.memory
    assert (asked, again) == (("user", "Tell me a story"), ("user", "What is your name?"))
    assert small_talk("Tell me a story", name="Noa").startswith(heard) and 15 < len(heard) < 80
    assert answer == small_talk("What is your name?", name="Noa")
    assert {"type": "interrupted"} in conversation.events


def test_the_next_answer_after_an_interruption_is_heard_whole():
    async def script(conversation: Conversation) -> None:
        await conversation.agent.read("Tell me a story")
        await conversation.play(3)
        await conversation.agent.worker.queue_frame(InterruptionFrame())
        await conversation.play(0.5)
        conversation.events.clear()
        await conversation.agent.worker.queue_frame(TTSSpeakFrame("All right then."))
        await conversation.play(3)

    conversation = happened(script)
    assert conversation.words == ["All", "right", "then."]
    assert conversation.states == ["talking", "listening"]


@pytest.mark.parametrize("server", ["down", "slow"])
def test_a_language_model_that_does_not_answer_is_said_to_have_failed(server: str):
    """And the session goes on."""

    async def script(conversation: Conversation) -> None:
        await conversation.agent.read("Hello")
        for _ in range(40):
            await conversation.play(1)
            if any(event["type"] == "error" for event in conversation.events):
                break
        await conversation.agent.speak("Still here.")
        await conversation.play(3)

    with socket.create_server(("127.0.0.1", 0)) as silent:  # accepts and says nothing
        port = silent.getsockname()[1] if server == "slow" else 9
        there = Endpoint(url=f"http://127.0.0.1:{port}/v1", model="m", key_variable="", first_byte_s=1.0)
        llm = EndpointLLM(Caller(there, "llm"), instruction="")
        conversation = happened(script, llm)
    assert [event["type"] for event in conversation.events].count("error") >= 1
    assert conversation.words == ["Still", "here."]
    assert conversation.states[:2] == ["thinking", "listening"]


def test_a_word_on_its_way_when_the_interruption_comes_is_not_passed_on(monkeypatch: pytest.MonkeyPatch):
    """It would otherwise begin the memory of the next answer."""
    passed: list[str] = []

    async def run() -> None:
        avatar = Avatar(Performer(LevelFace(), TIMING))

        async def note(frame: TTSTextFrame) -> None:
            passed.append(frame.text)

        monkeypatch.setattr(avatar, "push_frame", note)
        task = asyncio.create_task(avatar._pass_on_what_was_heard())
        for text, interrupts in (("heard", False), ("stale", True), ("next", False)):
            avatar._heard.put_nowait((avatar.performer.generation, TTSTextFrame(text, text_type=TextType.WORD)))
            if interrupts:
                avatar.performer.interrupt()
            await asyncio.sleep(0.01)
        task.cancel()

    asyncio.run(run())
    assert passed == ["heard", "next"]


def test_sound_that_nobody_comes_to_is_left_out_beyond_three_seconds_and_heard_again_after():
    second = bytes(2 * SAMPLE_RATE)

    async def script(conversation: Conversation) -> None:
        agent = conversation.agent
        for _ in range(10):
            await agent.push_microphone(second)
        assert agent.received_bytes <= WAITING_BYTES + len(second)
        assert agent.received_bytes + agent.dropped_bytes == 10 * len(second)
        await conversation.play_until(lambda: agent.avatar.passed_bytes == agent.received_bytes)
        dropped = agent.dropped_bytes
        await agent.push_microphone(second)
        await conversation.play_until(lambda: agent.avatar.passed_bytes == agent.received_bytes)
        assert agent.dropped_bytes == dropped > 0

    happened(script)


def test_speech_at_another_rate_is_refused():
    avatar = Avatar(Performer(LevelFace(), TIMING))
    with pytest.raises(ValueError, match="16000 Hz must have the engine's 24000 Hz"):
        avatar._say(TTSAudioRawFrame(b"\0\0", 16_000, 1))


def test_the_visitor_learns_that_recognition_fails():
    """Also where it had begun before the utterance was over."""

    class Broken:
        def transcribe(self, voice: np.ndarray) -> str:
            raise OSError("no model")

    sound = np.append(utterance("Good morning to you."), np.zeros(SAMPLE_RATE))

    async def run() -> Conversation:
        pool = LowPriority()
        stt = LocalSTT(Broken(), pool)
        conversation = Conversation(Services(stt, RuleLLM(name="Noa"), LocalTTS(Hum(), pool, sample_rate=24_000)))

        async def script(conversation: Conversation) -> None:
            for packet in np.split(to_pcm(sound), range(320, len(sound), 320)):
                await conversation.agent.push_microphone(packet.tobytes())
                await conversation.play(0.02)
            await conversation.play_until(lambda: [each for each in conversation.events if each["type"] == "error"])

        await conversation.run(script)
        return conversation

    errors = [each["message"] for each in turned_clock.run(run()).events if each["type"] == "error"]
    assert errors[0].startswith("Speech recognition does not work at the moment.")
