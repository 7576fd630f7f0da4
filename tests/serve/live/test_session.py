"""A conversation over a real connection on this machine."""

import asyncio
import json
from collections.abc import Awaitable, Callable

from aiohttp.test_utils import TestClient

from serve.live.session import Patience
from tests.serve.live.server_kit import GREETING, Browser, Kit, opened, serving

PATIENCE = Patience(waiting_s=1.5, away_s=1.5, session_s=60.0)


def talked(script: Callable[[Kit, TestClient], Awaitable[None]], patience: Patience = PATIENCE) -> None:
    async def run() -> None:
        async with serving(patience=patience) as (kit, client):
            await script(kit, client)

    asyncio.run(run())


async def until(condition: Callable[[], object], seconds: float = 8.0) -> None:
    for _ in range(round(20 * seconds)):
        if condition():
            return
        await asyncio.sleep(0.05)
    raise AssertionError(f"did not happen within {seconds} s")


def test_sound_picture_and_captions_arrive_together():
    async def script(kit: Kit, client: TestClient) -> None:
        async with Browser() as browser:
            await browser.connect(client, await opened(client))
            said = lambda: " ".join(e["text"] for e in map(json.loads, browser.events) if e["type"] == "caption")  # noqa: E731
            await until(lambda: said() == GREETING)
            steps = [b.pts - a.pts for a, b in zip(browser.pictures, browser.pictures[1:])]
            assert len(steps) > 12
            # Whole frames of 3750 ticks, rounded; a busy machine leaves some out.
            assert all(abs(step - 3_750 * round(step / 3_750)) <= 1 for step in steps)
            loud = max(int(abs(frame.to_ndarray()).max()) for frame in browser.sounds)
            bright = max(int(frame.to_ndarray(format="rgb24").max()) for frame in browser.pictures)
            assert loud > 10_000 and 45 < bright < 60  # the face draws 50 while the voice hums at 0.5
            assert {"type": "state", "state": "talking"} in map(json.loads, browser.events)

    talked(script)


def test_a_browser_that_closes_is_missed_and_its_place_freed():
    async def script(kit: Kit, client: TestClient) -> None:
        async with Browser() as browser:
            await browser.connect(client, await opened(client))
            await until(lambda: browser.pictures)
            await browser.close()
            await until(lambda: not kit.lobby.sessions)
            assert kit.faces[0].stops == 1

    talked(script)


def test_the_conversation_goes_on_after_the_network_was_cut():
    async def script(kit: Kit, client: TestClient) -> None:
        session, first, second = await opened(client), Browser(), Browser()
        answer = await first.connect(client, session)
        await until(lambda: first.pictures)
        await first.close()
        await second.connect(client, session | {"session_key": answer["session_key"]})
        await until(lambda: len(second.pictures) > 24)
        await asyncio.sleep(2)  # longer than the patience with somebody who is away
        assert len(kit.faces) == 1 and kit.lobby.sessions
        await second.close()

    talked(script)


def test_a_session_that_nobody_connects_to_ends():
    async def script(kit: Kit, client: TestClient) -> None:
        await opened(client)
        await until(lambda: not kit.lobby.sessions)

    talked(script)


def test_a_session_ends_when_its_time_is_over_and_says_so():
    async def script(kit: Kit, client: TestClient) -> None:
        async with Browser() as browser:
            await browser.connect(client, await opened(client))
            await until(lambda: not kit.lobby.sessions)
            assert any(json.loads(event)["type"] == "ended" for event in browser.events)

    talked(script, Patience(waiting_s=20.0, away_s=20.0, session_s=2.0))


def test_nonsense_on_the_channel_is_answered_and_changes_nothing():
    async def script(kit: Kit, client: TestClient) -> None:
        async with Browser() as browser:
            await browser.connect(client, await opened(client))
            await until(lambda: browser.channel.readyState == "open")
            for nonsense in (
                "{",
                "[]",
                "x" * 3_000,
                '{"type": "text", "text": 7}',
                '{"type": "text", "text": "Hello"}',
            ):
                browser.channel.send(nonsense)
            await until(lambda: sum(json.loads(event)["type"] == "error" for event in browser.events) == 3)
            await until(lambda: {"type": "state", "state": "thinking"} in list(map(json.loads, browser.events)))

    talked(script)
