"""A language model that is asked in the pause: on a turned clock, and a server that answers as a test wants."""

import asyncio
import gc
from collections.abc import Awaitable, Callable
from typing import Any

import numpy as np
import pytest
from aiohttp import web
from pipecat.audio.turn.smart_turn.local_smart_turn_v3 import LocalSmartTurnAnalyzerV3
from pipecat.processors.aggregators.llm_context import LLMContext

from gwm.media.sound import to_pcm
from serve.bench import turned_clock
from serve.live.low_priority import LowPriority
from serve.live.speech.agent import Services
from serve.live.speech.endpoint_llm import EndpointLLM
from serve.live.speech.endpoints import Caller, Endpoint
from serve.live.speech.recogniser import SAMPLE_RATE
from serve.live.speech.services import LocalSTT, LocalTTS
from tests.serve.live.remote_kit import Remote, refusal, streamed
from tests.serve.live.speech.test_agent import SAMPLES_PER_LETTER, Conversation
from tests.serve.live.speech.test_pauses import SAID, SAID_S, Noted, turn_ended_s
from tests.serve.live.vision.test_sight import Setting

Replies = Callable[[int], Awaitable[web.StreamResponse]]


class Counts:
    """Understands another sentence of each length of sound."""

    def __init__(self) -> None:
        self.lengths = list[int]()

    def transcribe(self, voice: np.ndarray) -> str:
        if len(voice) not in self.lengths:
            self.lengths.append(len(voice))
        return f"Part {1 + self.lengths.index(len(voice))}."


class Heard:
    """What came of something said aloud to a language model."""

    def __init__(self, replies: Replies, *, answers_early: bool = True, pause_s: float | None = None) -> None:
        self.asked_s, self.questions, self.ended = list[float](), list[str](), list[str]()
        self.voice = Noted()
        self.conversation = turned_clock.run(self._run(replies, answers_early, pause_s), grace_s=0.05)

    async def _run(self, replies: Replies, answers_early: bool, pause_s: float | None) -> Conversation:
        loop = asyncio.get_running_loop()

        async def reply(request: web.Request, asked: dict[str, Any]) -> web.StreamResponse:
            self.asked_s.append(loop.time())
            self.questions.append(asked["messages"][-1]["content"])
            try:
                return await replies(len(self.asked_s))
            except asyncio.CancelledError:
                self.ended.append(self.questions[-1])
                raise

        remote = Remote(reply)
        async with remote.serving() as url:
            caller = Caller(Endpoint(url=url, model="m", key_variable="", answers_early=answers_early), "llm")
            caller._answered_s, caller.markup.has_opening_tag = 1e9, True  # warm
            llm, pool = EndpointLLM(caller, instruction="Be kind."), LowPriority()
            tts = LocalTTS(self.voice, pool, sample_rate=24_000)
            conversation = Conversation(Services(LocalSTT(Counts(), pool), llm, tts))
            self.voice.now = loop.time
            await conversation.run(lambda conversation: self._say(conversation, pause_s))
        return conversation

    async def _say(self, conversation: Conversation, pause_s: float | None) -> None:
        parts = [SAID] if pause_s is None else [SAID, np.zeros(round(pause_s * SAMPLE_RATE)), SAID]
        sound = np.concatenate([*parts, np.zeros(2 * SAMPLE_RATE)])
        for packet in np.split(to_pcm(sound), range(320, len(sound), 320)):
            await conversation.agent.push_microphone(packet.tobytes())
            await conversation.play(0.02)
        await conversation.play_until(lambda: conversation.states[-1:] == ["listening"] and conversation.memory[1:])


async def good(number: int) -> web.StreamResponse:
    return streamed("Very well, thank", " you. And you?")


def test_the_model_is_asked_in_the_pause_once_and_what_it_says_first_is_spoken_before_the_turn_is_over():
    heard = Heard(good)
    assert heard.questions == ["Part 1."] and heard.asked_s[0] < turn_ended_s(heard.conversation) - 0.05
    assert heard.conversation.memory == [("user", "Part 1."), ("assistant", "Very well, thank you. And you?")]
    (begun_s, first), *others = heard.voice.spoken
    assert begun_s < turn_ended_s(heard.conversation) - 0.05
    assert [first, *(text for _, text in others)] == ["Very well,", "thank you.", "And you?"]
    played = sum((part != 0).sum() for part in heard.conversation.voice) / SAMPLES_PER_LETTER
    assert played == len("Very well,thank you.And you?")


def test_without_leave_the_model_is_asked_when_the_turn_is_over():
    heard = Heard(good, answers_early=False)
    assert heard.questions == ["Part 1."] and heard.asked_s[0] >= turn_ended_s(heard.conversation)


def test_who_goes_on_speaking_ends_the_request_and_is_answered_to_all_of_it(monkeypatch: pytest.MonkeyPatch):
    """A pause that ends a turn neither for the detector nor for the model; then the second part is begun with the
    first."""
    monkeypatch.setattr(
        LocalSmartTurnAnalyzerV3,
        "_predict_endpoint",
        lambda analyzer, sound: {"prediction": int(len(sound) > 2 * SAID_S * SAMPLE_RATE), "probability": 0.5},
    )

    async def slow_at_first(number: int) -> web.StreamResponse:
        if number == 1:
            await asyncio.sleep(60)
        return streamed("Yes.")

    heard = Heard(slow_at_first, pause_s=0.5)
    assert heard.questions == ["Part 1.", "Part 1. Part 2."] and heard.ended == ["Part 1."]
    assert heard.asked_s[1] < turn_ended_s(heard.conversation) - 0.05
    assert heard.conversation.memory == [("user", "Part 1. Part 2."), ("assistant", "Yes.")]


def test_a_request_that_failed_in_the_pause_is_sent_again(caplog: pytest.LogCaptureFixture):
    async def fails_at_first(number: int) -> web.StreamResponse:
        return refusal(400, "no") if number == 1 else streamed("Yes.")

    heard = Heard(fails_at_first)
    assert heard.conversation.memory[1] == ("assistant", "Yes.") and len(heard.questions) == 2
    assert not [event for event in heard.conversation.events if event["type"] == "error"]
    gc.collect()
    assert "never retrieved" not in caplog.text


def test_while_something_is_shown_nobody_is_asked_in_the_pause():
    """The picture is that of the end of the turn."""

    class Sees(Heard):
        async def _say(self, conversation: Conversation, pause_s: float | None) -> None:
            setting = Setting()
            setting.show()
            for work in setting.works:
                work.close()
            conversation.agent.see(setting.sight)
            await super()._say(conversation, pause_s)

    heard = Sees(good)
    assert len(heard.questions) == 1 and heard.asked_s[0] >= turn_ended_s(heard.conversation)


def test_only_the_question_that_was_begun_is_answered_early():
    """Another one is asked for itself, and the request that nobody wants is ended."""
    ended = list[str]()

    async def reply(request: web.Request, asked: dict[str, Any]) -> web.StreamResponse:
        question = asked["messages"][-1]["content"]
        try:
            await asyncio.sleep(0 if question == "Other?" else 60)
        except asyncio.CancelledError:
            ended.append(question)
            raise
        return streamed("Yes.")

    async def run() -> None:
        remote = Remote(reply)
        async with remote.serving() as url:
            caller = Caller(Endpoint(url=url, model="m", key_variable=""), "llm")
            caller.markup.has_opening_tag = True
            llm, context = EndpointLLM(caller, instruction=""), LLMContext([])
            beginning = asyncio.create_task(llm.begin_answer(context, "This?"))
            while not remote.asked:
                await asyncio.sleep(0.01)
            context.add_message({"role": "user", "content": "Other?"})
            chunks = await llm.get_chat_completions(context)
            assert "".join([chunk.choices[0].delta.content or "" async for chunk in chunks]) == "Yes."
            assert await beginning == ""
            while not ended:
                await asyncio.sleep(0.01)
            await llm._client.close()

    asyncio.run(run())
    assert ended == ["This?"]
