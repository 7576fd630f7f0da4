"""Pictures over a real connection: seen while they are shown, refused with a reason, never in the way of the rest."""

import json
from dataclasses import replace
from typing import Any

import pytest
from aiohttp import web
from aiohttp.test_utils import TestClient

from serve.live.http.conversation import Conversation
from serve.live.speech.endpoint_llm import EndpointLLM
from serve.live.speech.endpoints import Caller, Endpoint
from serve.live.vision.pictures import SOURCES
from serve.live.vision.sight import Vision
from tests.serve.live.http.test_conversation import more, talked, until
from tests.serve.live.remote_kit import Remote, streamed
from tests.serve.live.server_kit import GREETING, Browser, Kit, RedReader, opened
from tests.serve.live.speech.test_endpoint_llm import call
from tests.serve.live.vision.test_sight import jpeg

CAMERA, SCREEN = b"\x00", b"\x01"


def of(browser: Browser, kind: str) -> list[dict[str, Any]]:
    return [event for event in map(json.loads, browser.events) if event["type"] == kind]


def heard(browser: Browser) -> str:
    return " ".join(event["text"] for event in of(browser, "caption") if event["who"] == "character")


def test_a_screen_is_read_when_it_is_asked_for_and_forgotten_when_it_is_hidden():
    async def script(kit: Kit, client: TestClient) -> None:
        async with Browser() as browser:
            await browser.connect(client, await opened(client))
            await until(lambda: of(browser, "vision"))
            offer = {"type": "vision", "sources": ["camera", "screen"], "by": "fallback", "mode": "every_second"}
            assert of(browser, "vision") == [offer]
            await until(lambda: heard(browser) == GREETING)
            browser.channel.send('{"type": "text", "text": "What is on my screen?"}')
            await until(lambda: "I do not see your screen. You can switch it on" in heard(browser))
            browser.channel.send(SCREEN + jpeg(1_280, 720, colour=200))
            seen = {"type": "vision.seen", "source": "screen", "text": "screen of red 200", "by": "text recognition"}
            await until(lambda: of(browser, "vision.seen") == [seen])
            browser.channel.send('{"type": "text", "text": "And what is on my screen now?"}')
            await until(lambda: "On your screen I read: screen of red 200." in heard(browser))
            browser.channel.send('{"type": "vision.off", "source": "screen"}')
            browser.channel.send('{"type": "text", "text": "What is on my screen?"}')
            await until(lambda: heard(browser).count("I do not see your screen.") == 2)

    talked(script)


def test_what_is_no_picture_is_told_and_sound_and_picture_go_on():
    async def script(kit: Kit, client: TestClient) -> None:
        async with Browser() as browser:
            await browser.connect(client, await opened(client))
            await until(lambda: of(browser, "vision") and browser.pictures)
            for wrong in (
                b"",
                SCREEN + b"nonsense",
                SCREEN + jpeg()[:-9],
                SCREEN + jpeg(2_000, 2_000),
                b"\x09" + jpeg(),
            ):
                browser.channel.send(wrong)
            browser.channel.send('{"type": "vision.off", "source": "door"}')
            await until(lambda: len(of(browser, "error")) == 6)
            assert all(
                "must be" in event["message"] or "must begin" in event["message"] for event in of(browser, "error")
            )
            await more(browser.pictures, 24)  # type: ignore[arg-type]
            await more(browser.sounds, 24)  # type: ignore[arg-type]
            browser.channel.send(CAMERA + jpeg(colour=100))
            await until(lambda: of(browser, "vision.seen"))
            (talk,) = kit.admission.sessions.values()
            assert isinstance(talk, Conversation) and talk.sight is not None and talk.sight.shown == ("camera",)

    talked(script)


def test_what_was_shown_is_forgotten_when_another_connection_takes_the_place():
    async def script(kit: Kit, client: TestClient) -> None:
        async with Browser() as first, Browser() as second:
            session = await opened(client)
            answer = await first.connect(client, session)
            await until(lambda: of(first, "vision"))
            first.channel.send(CAMERA + jpeg())
            await until(lambda: of(first, "vision.seen"))
            (talk,) = kit.admission.sessions.values()
            assert isinstance(talk, Conversation) and talk.sight is not None and talk.sight.shown
            await second.connect(client, session | {"session_key": answer["session_key"]})
            await until(lambda: of(second, "vision"))
            assert not talk.sight.shown

    talked(script)


def test_a_server_without_vision_refuses_pictures_and_offers_none():
    async def script(kit: Kit, client: TestClient) -> None:
        kit.vision = None
        async with Browser() as browser:
            await browser.connect(client, await opened(client))
            await until(lambda: of(browser, "state"))
            browser.channel.send(SCREEN + jpeg())
            await until(lambda: of(browser, "error"))
            assert of(browser, "error")[0]["message"] == "Pictures are not looked at here."
            assert of(browser, "vision") == []

    talked(script)


def test_on_request_a_screen_is_looked_at_when_it_is_asked_about_and_only_then():
    async def script(kit: Kit, client: TestClient) -> None:
        assert kit.vision is not None
        kit.vision = replace(kit.vision, mode="on_request")
        async with Browser() as browser:
            await browser.connect(client, await opened(client))
            await until(lambda: of(browser, "vision") and heard(browser) == GREETING)
            assert of(browser, "vision")[0]["mode"] == "on_request"
            browser.channel.send('{"type": "vision.on", "source": "screen"}')
            browser.channel.send(SCREEN + jpeg(1_280, 720, colour=100))  # nobody has asked for it
            browser.channel.send('{"type": "text", "text": "What do you see?"}')
            await until(lambda: of(browser, "vision.look"))
            assert of(browser, "vision.look") == [{"type": "vision.look", "source": "screen"}]
            browser.channel.send(SCREEN + jpeg(1_280, 720, colour=200))
            await until(lambda: "On your screen I read: screen of red 200." in heard(browser))
            assert [event["text"] for event in of(browser, "vision.seen")] == ["screen of red 200"]
            browser.channel.send('{"type": "vision.off", "source": "screen"}')
            browser.channel.send('{"type": "text", "text": "What is on my screen?"}')
            await until(lambda: "I do not see your screen." in heard(browser))
            assert len(of(browser, "vision.look")) == 1

    talked(script)


@pytest.mark.parametrize("mode", ["off", "on_request"])
def test_a_character_sees_no_more_than_it_may(mode: str):
    async def script(kit: Kit, client: TestClient) -> None:
        kit.api.characters["noa"] = replace(kit.character, vision=mode)
        async with Browser() as browser:
            await browser.connect(client, await opened(client))
            await until(lambda: of(browser, "state"))
            browser.channel.send(SCREEN + jpeg())
            if mode == "off":
                await until(lambda: of(browser, "error"))
                assert of(browser, "error")[0]["message"] == "Pictures are not looked at here."
            browser.channel.send('{"type": "text", "text": "What is your name?"}')
            await until(lambda: "Noa" in heard(browser))
            assert of(browser, "vision.seen") == [] and len(of(browser, "vision")) == (mode != "off")

    talked(script)


def with_model(kit: Kit, url: str, *, calls_tools: bool) -> None:
    """Sessions that are opened now have a language model behind this address."""
    caller = Caller(Endpoint(url=url, model="m", key_variable=""), "llm")
    caller._answered_s, caller.markup.has_opening_tag = 1e9, True  # warm
    kit.make_llm = lambda character: EndpointLLM(
        caller, instruction=character.instruction, calls_tools=calls_tools, knowledge=None
    )


async def looks(request: web.Request, asked: dict[str, Any]) -> web.StreamResponse:
    """Looks at the screen, and says what came of it."""
    last = asked["messages"][-1]
    if last["role"] != "tool":
        return streamed(call(0, "look", '{"source": "screen"}'), finish="tool_calls")
    outcome = json.loads(last["content"])
    return streamed(outcome.get("error") or f"It was {outcome['result']['status']}.")


def test_a_language_model_looks_by_a_tool_and_is_given_the_picture_of_that_moment():
    async def script(kit: Kit, client: TestClient) -> None:
        kit.vision, remote = Vision(SOURCES, None, "on_request"), Remote(looks)
        async with remote.serving() as url, Browser() as browser:
            with_model(kit, url, calls_tools=True)
            await browser.connect(client, await opened(client))
            await until(lambda: of(browser, "vision") and heard(browser) == GREETING)
            browser.channel.send('{"type": "text", "text": "What is this?"}')
            await until(lambda: "The visitor does not show the screen." in heard(browser))
            browser.channel.send('{"type": "vision.on", "source": "screen"}')
            browser.channel.send('{"type": "text", "text": "And now?"}')
            await until(lambda: of(browser, "vision.look"))
            browser.channel.send(SCREEN + jpeg(colour=200))
            await until(lambda: "It was seen." in heard(browser))
            browser.channel.send('{"type": "text", "text": "And then?"}')
            await until(lambda: len(of(browser, "vision.look")) == 2)
        before, after, later = remote.asked[2:5]
        (tool,) = before["tools"]
        assert tool["function"]["name"] == "look"
        assert tool["function"]["parameters"]["properties"]["source"]["enum"] == list(SOURCES)
        assert "call the tool look" in before["messages"][0]["content"]
        assert "image_url" not in json.dumps(before["messages"]) and "image_url" not in json.dumps(later["messages"])
        (question,) = [each for each in after["messages"] if isinstance(each.get("content"), list)]
        assert question["content"][0]["text"] == "And now?" and question["content"][2]["type"] == "image_url"

    talked(script)


def test_a_model_that_calls_no_tool_is_given_what_was_read_when_it_was_asked_about_it():
    async def answer(request: web.Request, asked: dict[str, Any]) -> web.StreamResponse:
        return streamed("I see." if "screen of red 200" in asked["messages"][-1]["content"] else "I do not.")

    async def script(kit: Kit, client: TestClient) -> None:
        kit.vision, remote = Vision(SOURCES, RedReader(), "on_request"), Remote(answer)
        async with remote.serving() as url, Browser() as browser:
            with_model(kit, url, calls_tools=False)
            await browser.connect(client, await opened(client))
            await until(lambda: of(browser, "vision") and heard(browser) == GREETING)
            browser.channel.send('{"type": "vision.on", "source": "screen"}')
            browser.channel.send('{"type": "text", "text": "What is on my screen?"}')
            await until(lambda: of(browser, "vision.look"))
            browser.channel.send(SCREEN + jpeg(colour=200))
            await until(lambda: heard(browser).endswith("I see."))
            browser.channel.send('{"type": "text", "text": "Do you like tea?"}')
            await until(lambda: heard(browser).endswith("I do not."))
            assert all("tools" not in asked for asked in remote.asked)

    talked(script)
