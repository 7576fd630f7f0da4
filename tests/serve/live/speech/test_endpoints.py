"""Conversations through servers that speak OpenAI's API, as they are and as they should not be."""

import asyncio
import io
import wave
from collections.abc import Awaitable, Callable
from typing import Any

import numpy as np
import pytest
from aiohttp import web
from pipecat.frames.frames import InputAudioRawFrame, VADUserStartedSpeakingFrame, VADUserStoppedSpeakingFrame

from serve.bench import turned_clock
from serve.live.characters import Character
from serve.live.low_priority import LowPriority
from serve.live.speech.agent import Services
from serve.live.speech.endpoint_llm import GREETING, EndpointLLM
from serve.live.speech.endpoint_speech import EndpointSTT, EndpointTTS
from serve.live.speech.endpoints import Caller, Endpoint
from serve.live.speech.profile import Profile
from serve.live.speech.services import LocalSTT, LocalTTS, RuleLLM
from serve.live.speech.voices import EndpointVoice
from tests.serve.live.remote_kit import Remote, Reply, always, refusal, streamed
from tests.serve.live.server_kit import nothing_left_behind
from tests.serve.live.speech.test_agent import Conversation, Deaf, Hum

NAMES = {"stt": "Speech recognition", "llm": "The language model", "tts": "The voice"}
GRACE_S = 0.005  # for what is on its way between two sockets of this process


async def well(request: web.Request, asked: dict[str, Any]) -> web.StreamResponse:
    assert request.headers["Authorization"] == "Bearer secret"
    if "file" in asked:
        return web.json_response({"text": " What is your name? "})
    if "messages" in asked:
        return streamed("I am ", "**Noa**.")
    assert (asked["voice"], asked["response_format"]) == ("af_heart", "pcm")
    voice = np.full(1_200 * len(asked["input"]), 16_000, "<i2").tobytes()
    return web.Response(body=voice + b"\0", content_type="audio/pcm")  # an odd end: a stream that broke


def services(url: str, part: str) -> Services:
    """The named part, or all of them, at that server; the rest here."""
    there = Endpoint(url=url, model="ear", key_variable="GWM_TEST_KEY", first_byte_s=1.0)
    pool, everything = LowPriority(), part == "all"
    return Services(
        stt=EndpointSTT(Caller(there, "stt")) if everything or part == "stt" else LocalSTT(Deaf(), pool),
        llm=EndpointLLM(Caller(there, "llm"), instruction="Be kind.")
        if everything or part == "llm"
        else RuleLLM(name="Noa"),
        tts=EndpointTTS(Caller(there, "tts"), voice=EndpointVoice(name="af_heart"), sample_rate=24_000)
        if everything or part == "tts"
        else LocalTTS(Hum(), pool, sample_rate=24_000),
    )


async def ask(conversation: Conversation) -> None:
    """As the voice detector tells it: a second of sound from a person."""
    queue = conversation.agent.worker.queue_frame
    await queue(VADUserStartedSpeakingFrame(0.2))
    for _ in range(10):
        await queue(InputAudioRawFrame(b"\1\0" * 1_600, 16_000, 1))
    await queue(VADUserStoppedSpeakingFrame(0.2))


def happened(
    reply: Reply | None, part: str, script: Callable[[Conversation, Remote], Awaitable[None]], monkeypatch: Any
) -> tuple[Conversation, Remote]:
    """reply: None: nobody listens there."""
    monkeypatch.setenv("GWM_TEST_KEY", "secret")
    remote = Remote(reply or well)

    async def run() -> Conversation:
        async with nothing_left_behind(), remote.serving() as url:
            conversation = Conversation(services(url if reply else "http://127.0.0.1:9/v1", part))
            await conversation.run(lambda talk: script(talk, remote))
            return conversation

    return turned_clock.run(run(), grace_s=GRACE_S), remote


def test_a_conversation_through_a_server_with_any_voice(monkeypatch: pytest.MonkeyPatch):
    async def script(conversation: Conversation, remote: Remote) -> None:
        await ask(conversation)
        await conversation.play_until(lambda: conversation.states[-2:] == ["talking", "listening"])

    conversation, remote = happened(well, "all", script, monkeypatch)
    assert conversation.words == ["What is your name?", "I", "am", "Noa."]
    questions = [asked["messages"] for asked in remote.asked if "messages" in asked]
    assert questions[-1][-1] == {"role": "user", "content": "What is your name?"}
    heard = [asked["file"] for asked in remote.asked if "file" in asked]
    with wave.open(io.BytesIO(heard[-1])) as file:
        assert file.getframerate() == 16_000 and file.getnframes() >= 16_000
    assert abs(sum((voice != 0).sum() for voice in conversation.voice) - 1_200 * len("I am Noa.")) <= 2


@pytest.mark.parametrize("part", ["stt", "llm", "tts"])
@pytest.mark.parametrize(
    ("reply", "cause"),
    [
        (None, "nothing listens at its address"),
        (always(lambda: web.Response(text="<html>", content_type="text/html")), "answered with a web page"),
        (always(lambda: refusal(401, "no")), "refuses the key"),
    ],
    ids=["down", "web page", "401"],
)
def test_a_part_that_fails_is_named_with_the_cause_and_asked_again_with_the_next_question(
    reply: Reply | None, cause: str, part: str, monkeypatch: pytest.MonkeyPatch
):
    """A failure that pipecat takes for permanent would silence the part for the rest of the session."""

    async def script(conversation: Conversation, remote: Remote) -> None:
        errors = lambda: [event["message"] for event in conversation.events if event["type"] == "error"]  # noqa: E731
        for _ in range(2):
            conversation.events.clear()
            asked = len(remote.asked)
            await (ask(conversation) if part == "stt" else conversation.agent.read("What is your name?"))
            await conversation.play_until(errors)
            assert all(message.startswith(NAMES[part]) and cause in message for message in errors()), errors()
            assert conversation.states[-1] == "listening"
            assert len(remote.asked) > asked or reply is None
        if part != "tts":  # whose voice is what would say it
            await conversation.agent.speak("Still here.")
            await conversation.play_until(lambda: conversation.states[-2:] == ["talking", "listening"])
            assert conversation.words[-2:] == ["Still", "here."]

    happened(reply, part, script, monkeypatch)


def test_the_model_is_warmed_up_before_the_first_question_and_a_failure_is_nobodys_concern(
    monkeypatch: pytest.MonkeyPatch,
):
    async def script(conversation: Conversation, remote: Remote) -> None:
        await conversation.play_until(lambda: remote.asked)
        await conversation.agent.speak("Still here.")
        await conversation.play_until(lambda: conversation.states == ["talking", "listening"])
        assert not [event for event in conversation.events if event["type"] == "error"]

    _, remote = happened(always(lambda: refusal(500, "no")), "llm", script, monkeypatch)
    system = {"role": "system", "content": "Be kind."}
    assert remote.asked[0]["messages"] == [system, {"role": "user", "content": GREETING}]


def test_a_visitor_who_waits_for_a_server_is_told_why(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("serve.live.speech.endpoints.SLOW_S", 0.1)

    async def slow(request: web.Request, asked: dict[str, Any]) -> web.StreamResponse:
        await asyncio.sleep(0.5)
        return await well(request, asked)

    async def script(conversation: Conversation, remote: Remote) -> None:
        notice = {"type": "notice", "message": "The language model is loading. Please wait."}
        await conversation.play_until(lambda: notice in conversation.events)
        await conversation.agent.speak("Still here.")  # by then the server has answered
        await conversation.play_until(lambda: conversation.states == ["talking", "listening"])
        assert [event for event in conversation.events if event["type"] in ("notice", "error")] == [notice]

    happened(slow, "llm", script, monkeypatch)


VOICES_HZ = {"nova": 300, "onyx": 100}  # of the server's voices


async def in_its_voice(request: web.Request, asked: dict[str, Any]) -> web.StreamResponse:
    tone = 16_000 * np.sin(2 * np.pi * VOICES_HZ[asked["voice"]] * np.arange(24_000) / 24_000)
    return web.Response(body=tone.astype("<i2").tobytes(), content_type="audio/pcm")


@pytest.mark.parametrize("name", VOICES_HZ)
def test_a_characters_voice_is_heard_through_a_server(name: str, monkeypatch: pytest.MonkeyPatch):
    """As `test_the_shipped_characters_have_three_voices` hears it of the voices that run here."""
    character = Character(
        "a", "A", np.zeros((4, 4, 3), np.uint8), "", voice={"piper": {"semitones": 4}, "openai": name}
    )

    async def run() -> Conversation:
        remote = Remote(in_its_voice)
        async with nothing_left_behind(), remote.serving() as url:
            tts = Endpoint(url=url, model="m", key_variable="GWM_TEST_KEY")
            profile = Profile(
                stt="moonshine",
                llm="rules",
                tts="openai",
                endpoints={"tts": tts},
                characters={"a": character},
                sample_rate=24_000,
            )
            services = profile.services(character)
            here = Services(stt=LocalSTT(Deaf(), profile.pool), llm=services.llm, tts=services.tts)
            conversation = Conversation(here)

            async def speak(talk: Conversation) -> None:
                await talk.agent.speak("Hello.")
                await talk.play_until(lambda: talk.states == ["talking", "listening"])

            await conversation.run(speak)
            profile.close()
            return conversation

    monkeypatch.setattr("serve.live.speech.profile.RECOGNISERS", {"moonshine": Deaf})
    voice = np.concatenate(turned_clock.run(run(), grace_s=GRACE_S).voice)
    spectrum = np.abs(np.fft.rfft(voice))
    assert abs(spectrum.argmax() * 24_000 / len(voice) - VOICES_HZ[name]) < 2
