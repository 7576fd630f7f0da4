"""Pictures over a real connection: seen while they are shown, refused with a reason, never in the way of the rest."""

import json
from typing import Any

from aiohttp.test_utils import TestClient

from serve.live.http.conversation import Conversation
from tests.serve.live.http.test_conversation import more, talked, until
from tests.serve.live.server_kit import GREETING, Browser, Kit, opened
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
            assert of(browser, "vision") == [{"type": "vision", "sources": ["camera", "screen"], "by": "fallback"}]
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
