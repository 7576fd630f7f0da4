"""Servers that speak OpenAI's API, as they are and as they should not be: a real one on a port of this machine."""

import asyncio
import contextlib
import io
import json
import wave
from collections.abc import AsyncIterator, Awaitable, Callable

import numpy as np
import pytest
from aiohttp import web
from pipecat.frames.frames import InputAudioRawFrame, VADUserStartedSpeakingFrame, VADUserStoppedSpeakingFrame

from serve.live.agent import Services
from serve.live.endpoints import Endpoint, EndpointLLM, EndpointSTT, EndpointTTS, recent, transcribed
from serve.live.low_priority import LowPriority
from serve.live.services import LocalSTT, LocalTTS, RuleLLM
from serve.live.turns import FAILURES, SILENT_MODEL
from tests.serve.live import turned_clock
from tests.serve.live.server_kit import nothing_left_behind
from tests.serve.live.test_agent import Conversation, Deaf, Hum

VOICE, MODEL, RECOGNISER = reversed(FAILURES.values())
WAIT_S = 0.3
GRACE_S = 0.005  # for what is on its way between two sockets of this process


class Remote:
    """All three services of one server; `mood` says how it answers: well, garbage, slow, or with an error."""

    def __init__(self, mood: str) -> None:
        self.mood, self.heard, self.asked = mood, b"", []
        self.app = web.Application(middlewares=[self._behave])
        self.app.router.add_post("/v1/audio/transcriptions", self.transcribe)
        self.app.router.add_post("/v1/chat/completions", self.complete)
        self.app.router.add_post("/v1/audio/speech", self.speak)

    @web.middleware
    async def _behave(self, request: web.Request, handler) -> web.StreamResponse:
        if self.mood == "slow":
            await asyncio.sleep(1)
        if self.mood == "garbage":
            return web.Response(text="<html>It works!</html>", content_type="text/html")
        if self.mood == "error":
            return web.json_response({"error": {"message": "out of memory"}}, status=500)
        return await handler(request)

    async def transcribe(self, request: web.Request) -> web.Response:
        form = await request.post()
        self.heard = form["file"].file.read()
        assert form["model"] == "ear" and request.headers["Authorization"] == "Bearer secret"
        return web.json_response({"text": " What is your name? "})

    async def complete(self, request: web.Request) -> web.Response:
        self.asked = (await request.json())["messages"]
        parts = [{"choices": [{"index": 0, "delta": {"content": word}}]} for word in ("I am ", "Noa.")]
        lines = [json.dumps({"id": "1", "object": "chat.completion.chunk", "model": "m", **part}) for part in parts]
        return web.Response(
            text="".join(f"data: {line}\n\n" for line in [*lines, "[DONE]"]), content_type="text/event-stream"
        )

    async def speak(self, request: web.Request) -> web.Response:
        wish = await request.json()
        assert (wish["voice"], wish["response_format"]) == ("af_heart", "pcm")
        voice = np.full(1_200 * len(wish["input"]), 16_000, "<i2").tobytes()
        return web.Response(body=voice + b"\0", content_type="audio/pcm")  # an odd end: a stream that broke

    @contextlib.asynccontextmanager
    async def serving(self) -> AsyncIterator[str]:
        runner = web.AppRunner(self.app, shutdown_timeout=0)
        await runner.setup()
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        try:
            yield f"http://127.0.0.1:{runner.addresses[0][1]}/v1"
        finally:
            await runner.cleanup()


def services(url: str, part: str) -> Services:
    """The named part, or all of them, at that server; the rest here."""
    there = Endpoint(url=url, model="ear", key_variable="GWM_TEST_KEY")
    pool, everything = LowPriority(), part == "all"
    return Services(
        stt=EndpointSTT(there) if everything or part == "stt" else LocalSTT(Deaf(), pool),
        llm=EndpointLLM(there) if everything or part == "llm" else RuleLLM(name="Noa"),
        tts=EndpointTTS(there, voice="af_heart", sample_rate=24_000)
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
    mood: str, part: str, script: Callable[[Conversation], Awaitable[None]], monkeypatch: pytest.MonkeyPatch
) -> tuple[Conversation, Remote]:
    monkeypatch.setattr("serve.live.endpoints.ANSWER_TIMEOUT_S", WAIT_S)
    monkeypatch.setattr("serve.live.endpoints.RETRIES", 0)
    monkeypatch.setenv("GWM_TEST_KEY", "secret")
    remote = Remote(mood)

    async def run() -> Conversation:
        async with nothing_left_behind(), remote.serving() as url:
            conversation = Conversation(services("http://127.0.0.1:9/v1" if mood == "down" else url, part))
            await conversation.run(script)
            return conversation

    return turned_clock.run(run(), grace_s=GRACE_S), remote


def test_a_conversation_through_a_server_with_any_voice(monkeypatch: pytest.MonkeyPatch):
    async def script(conversation: Conversation) -> None:
        await ask(conversation)
        await conversation.play_until(lambda: conversation.states[-2:] == ["talking", "listening"])

    conversation, remote = happened("well", "all", script, monkeypatch)
    assert conversation.words == ["What is your name?", "I", "am", "Noa."]
    assert remote.asked[-1] == {"role": "user", "content": "What is your name?"}
    with wave.open(io.BytesIO(remote.heard)) as file:
        assert file.getframerate() == 16_000 and file.getnframes() >= 16_000
    assert sum((voice != 0).sum() for voice in conversation.voice) == 1_200 * len("I am Noa.")


@pytest.mark.parametrize("mood", ["down", "slow", "garbage", "error"])
@pytest.mark.parametrize(
    ("part", "messages"), [("stt", [RECOGNISER]), ("llm", [MODEL, SILENT_MODEL]), ("tts", [VOICE])]
)
def test_a_part_that_fails_is_named_and_the_session_goes_on(
    mood: str, part: str, messages: list[str], monkeypatch: pytest.MonkeyPatch
):
    async def script(conversation: Conversation) -> None:
        await (ask(conversation) if part == "stt" else conversation.agent.read("What is your name?"))
        errors = lambda: [event["message"] for event in conversation.events if event["type"] == "error"]  # noqa: E731
        await conversation.play_until(errors)
        assert set(errors()) <= set(messages) and conversation.states[-1] == "listening"
        if part != "tts":  # whose voice is what would say it
            await conversation.agent.speak("Still here.")
            await conversation.play_until(lambda: conversation.states[-2:] == ["talking", "listening"])
            assert conversation.words[-2:] == ["Still", "here."]

    happened(mood, part, script, monkeypatch)


@pytest.mark.parametrize("body", ["<html>", "[]", "{}", '"text"', "null"])
def test_what_is_no_transcription_is_an_error_that_shows_it(body: str):
    with pytest.raises(ValueError, match='must be JSON with "text", is'):
        transcribed(body)


def test_speech_of_another_rate_than_the_engines_is_refused():
    there = Endpoint(url=None, model="m", key_variable="")
    with pytest.raises(ValueError, match="has 24000 Hz, the engine 16000"):
        EndpointTTS(there, voice="alloy", sample_rate=16_000)


def test_memory_that_is_too_long_is_halved_to_the_instruction_and_the_latest_messages():
    messages = [{"role": "system", "content": "Be kind."}]
    messages += [{"role": "user", "content": str(number) * 10} for number in range(10)]
    assert recent(messages, 100) == messages
    assert recent(messages, 99) == [messages[0], *messages[-4:]]
    assert recent(messages, 3) == [messages[0], messages[-1]]  # what was asked last, however long


def test_what_a_server_has_read_stays_the_beginning_of_what_it_reads_for_many_turns():
    """A memory that moves by a message each turn would make it read everything again each time."""
    messages = [{"role": "system", "content": "Be kind."}]
    again = 0
    for turn in range(100):
        messages.append({"role": "user", "content": f"{turn:010}"})
        kept = recent(messages, 200)
        again += kept[: len(messages) - 1] != messages[:-1]
        messages = kept
    assert again == len(range(21, 101, 11))  # twenty fit in, and a cut leaves ten


@pytest.mark.parametrize("mood", ["well", "down", "error"])
def test_the_instruction_is_read_before_the_first_question_and_a_failure_is_no_ones_concern(
    mood: str, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr("serve.live.endpoints.RETRIES", 0)
    remote = Remote(mood)

    async def script(conversation: Conversation) -> None:
        if mood == "well":
            await conversation.play_until(lambda: remote.asked)
            assert remote.asked == [{"role": "system", "content": "Be kind."}]
        await conversation.agent.speak("Still here.")
        await conversation.play_until(lambda: conversation.states == ["talking", "listening"])
        assert not [event for event in conversation.events if event["type"] == "error"]

    async def run() -> None:
        async with nothing_left_behind(), remote.serving() as url:
            there = Endpoint(url="http://127.0.0.1:9/v1" if mood == "down" else url, model="m", key_variable="")
            pool = LowPriority()
            parts = Services(
                LocalSTT(Deaf(), pool),
                EndpointLLM(there, read_first="Be kind."),
                LocalTTS(Hum(), pool, sample_rate=24_000),
            )
            await Conversation(parts).run(script)

    turned_clock.run(run(), grace_s=GRACE_S)
