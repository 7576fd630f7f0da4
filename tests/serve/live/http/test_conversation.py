"""A conversation over a real connection on this machine."""

import asyncio
import json
from collections.abc import Awaitable, Callable
from dataclasses import replace

import numpy as np
import pytest
from aiohttp.test_utils import TestClient
from aiortc import RTCPeerConnection, RTCSessionDescription

from serve.live.http.conversation import TEXTS_PER_MINUTE, Conversation
from serve.live.http.page_session import LOST_PICTURE
from serve.live.http.peer import Peer, close_connection
from serve.live.http.session import WATCH_S, Timeouts
from serve.live.speech.services import small_talk
from tests.serve.live.server_kit import DEADLINE_S, GREETING, TIMEOUTS, Browser, Kit, offer, opened, serving

RECONNECT_S = 4.0  # more than a busy machine takes from one packet to the next


def talked(script: Callable[[Kit, TestClient], Awaitable[None]], timeouts: Timeouts = TIMEOUTS) -> None:
    async def run() -> None:
        async with serving(timeouts=timeouts) as (kit, client):
            await script(kit, client)

    asyncio.run(run())


def talking(browser: Browser) -> bool:
    return {"type": "state", "state": "talking"} in map(json.loads, browser.events)


async def until(condition: Callable[[], object]) -> None:
    async with asyncio.timeout(DEADLINE_S):
        while not condition():
            await asyncio.sleep(0.05)


async def more(seen: list[object], number: int) -> None:
    """Wait until so many have been added."""
    enough = len(seen) + number
    await until(lambda: len(seen) >= enough)


def test_sound_picture_and_captions_arrive_together():
    async def script(kit: Kit, client: TestClient) -> None:
        async with Browser() as browser:
            await browser.connect(client, await opened(client))
            said = lambda: " ".join(e["text"] for e in map(json.loads, browser.events) if e["type"] == "caption")  # noqa: E731
            await until(lambda: said() == GREETING)
            await until(lambda: len(browser.pictures) > 13)
            steps = [b.pts - a.pts for a, b in zip(browser.pictures, browser.pictures[1:])]
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
            await until(lambda: not kit.admission.sessions)
            assert kit.faces[0].stops == 1

    talked(script, replace(TIMEOUTS, reconnect_s=1.5))


def test_the_conversation_goes_on_after_the_network_was_cut():
    """The same session, engine and memory; what the old connection held is given back (`serving` counts it)."""

    async def script(kit: Kit, client: TestClient) -> None:
        session, first, second = await opened(client), Browser(), Browser()
        answer = await first.connect(client, session)
        (talk,) = kit.admission.sessions.values()
        assert isinstance(talk, Conversation)
        said = lambda: [message["content"] for message in talk.agent.context.messages[1:]]  # noqa: E731
        await until(lambda: said() == [GREETING])
        first.cut()
        await second.connect(client, session | {"session_key": answer["session_key"]})
        await until(lambda: len(second.pictures) > 24 and len(second.sounds) > 24)
        second.channel.send('{"type": "text", "text": "What is your name?"}')
        name = small_talk("What is your name?", name="Noa")
        await until(lambda: said() == [GREETING, "What is your name?", name])
        await asyncio.sleep(RECONNECT_S + 2 * WATCH_S)  # the old connection's absence would have ended it
        assert kit.admission.sessions and [face.starts for face in kit.faces] == [1]
        await first.close()
        await second.close()

    talked(script, replace(TIMEOUTS, reconnect_s=RECONNECT_S))


def test_an_offer_that_is_sent_again_is_answered_alike_until_its_connection_is_open():
    """The answer may have been lost on its way; its key would be lost with it. Later it would give the key away."""

    async def script(kit: Kit, client: TestClient) -> None:
        session = await opened(client)
        async with Browser() as browser:
            await browser.connection.setLocalDescription(await browser.connection.createOffer())
            sdp = browser.connection.localDescription.sdp
            first = await offer(client, session, sdp)
            assert await offer(client, session, sdp) == first and first["status"] == "200"
            await browser.connection.setRemoteDescription(RTCSessionDescription(first["sdp"], "answer"))
            await until(lambda: browser.pictures)
            assert (await offer(client, session, sdp))["status"] == "403"
            seen = len(browser.pictures)
            await until(lambda: len(browser.pictures) > seen + 12)

    talked(script)


def test_an_offer_that_cannot_be_answered_leaves_the_connection_that_is_there():
    async def script(kit: Kit, client: TestClient) -> None:
        session = await opened(client)
        async with Browser() as browser:
            answer = await browser.connect(client, session)
            await until(lambda: browser.pictures)
            wrong = await offer(client, session | {"session_key": answer["session_key"]}, "v=0")
            assert wrong["status"] == "400"
            await more(browser.pictures, 12)

    talked(script)


def test_a_client_without_a_channel_for_messages_is_connected_all_the_same():
    """It hears the greeting, and is not sent away as one that never came."""

    async def script(kit: Kit, client: TestClient) -> None:
        async with Browser(channel=False) as browser:
            await browser.connect(client, await opened(client))
            await until(lambda: any(abs(frame.to_ndarray()).max() > 10_000 for frame in browser.sounds))
            (session,) = kit.admission.sessions.values()
            assert not session.waiting and not session._end_reason()

    talked(script)


@pytest.mark.parametrize(
    ("offered", "rule"),
    [
        ({"video": "VP9"}, "sdp offers the video codecs VP9, must offer one of H264, VP8."),
        ({"video": "AV1"}, "sdp offers the video codecs AV1, must offer one of H264, VP8."),
        ({"kinds": ["audio"]}, "sdp offers ['audio'], must offer one audio and one video."),
        ({"kinds": ["video"]}, "sdp offers ['video'], must offer one audio and one video."),
        ({"kinds": []}, "sdp offers no media, must offer one audio and one video."),
        ({"kinds": ["audio", "video", "video"]}, "must offer one audio and one video."),
        ({"direction": "sendonly"}, "sdp has audio sendonly, must be sendrecv or recvonly"),
        ({"direction": "inactive"}, "sdp has audio inactive, must be sendrecv or recvonly"),
        ({"drop": "a=ice-"}, "sdp must be a WebRTC offer that can be answered (ValueError: ICE"),
        ({"drop": "a=fingerprint"}, "sdp has no fingerprint of a certificate"),
        ({"add": "a=candidate:1 1 udp 1 192.0.2.1 9 typ host\r\n" * 99}, "candidates, must have at most 64"),
    ],
    ids=str,
)
def test_an_offer_that_is_not_served_is_refused_with_the_reason_and_frees_its_place(offered: dict, rule: str):
    async def script(kit: Kit, client: TestClient) -> None:
        answer = await offer(client, await opened(client), await sdp_of(**offered))
        assert answer["status"] == "400" and rule in answer["error"], answer
        assert not kit.admission.sessions and kit.faces[0].stops == 1

    talked(script)


async def sdp_of(
    *,
    kinds: tuple[str, ...] | list[str] = ("audio", "video"),
    video: str = "",
    direction: str = "recvonly",
    drop: str = "",
    add: str = "",
) -> str:
    """An offer of some other client: with media of these kinds, and of these codecs alone."""
    connection = RTCPeerConnection()
    connection.createDataChannel("events")
    for kind in kinds:
        connection.addTransceiver(kind, direction=direction)
    await connection.setLocalDescription(await connection.createOffer())
    sdp = connection.localDescription.sdp
    await close_connection(connection)
    if video:
        sdp = sdp.replace("VP8/90000", f"{video}/90000").replace("H264/90000", f"{video}/90000")
    return "".join(line for line in sdp.splitlines(keepends=True) if not drop or not line.startswith(drop)) + add


def test_a_picture_that_a_client_sends_is_not_taken():
    """Nobody looks at it, and decoding it unasked fills the memory."""

    async def script(kit: Kit, client: TestClient) -> None:
        async with Browser(camera=True) as browser:
            answer = await browser.connect(client, await opened(client))
            video = answer["sdp"].partition("m=video")[2].partition("m=")[0]
            assert "a=sendonly" in video
            await until(lambda: browser.pictures)
            (session,) = kit.admission.sessions.values()
            assert isinstance(session, Conversation) and isinstance(session._transport, Peer)
            (receiver,) = (
                r for r in session._transport.connection.getReceivers() if r.track and r.track.kind == "video"
            )
            assert not [report for report in (await receiver.getStats()).values() if report.type == "inbound-rtp"]

    talked(script)


def test_a_browser_that_closes_mid_sentence_disturbs_nobody_else():
    async def script(kit: Kit, client: TestClient) -> None:
        async with Browser() as leaving, Browser() as staying:
            await leaving.connect(client, await opened(client))
            await staying.connect(client, await opened(client))
            for browser in (leaving, staying):
                await until(lambda browser=browser: talking(browser))
            await leaving.close()
            await until(lambda: len(kit.admission.sessions) == 1)
            assert [face.stops for face in kit.faces] == [1, 0]
            await more(staying.pictures, 12)
            await more(staying.sounds, 25)
            steps = np.diff([frame.pts for frame in staying.sounds])
            assert (steps == steps[0]).all()  # not a packet was left out

    talked(script, replace(TIMEOUTS, reconnect_s=RECONNECT_S))


def test_the_voice_goes_on_over_a_still_picture_while_a_killed_engine_is_replaced():
    async def script(kit: Kit, client: TestClient) -> None:
        async with Browser() as browser:
            await browser.connect(client, await opened(client))
            await until(lambda: len(browser.pictures) > 12)
            (session,) = kit.admission.sessions.values()
            assert isinstance(session, Conversation)
            kit.faces[0].lost = True
            await until(lambda: session.performer.losses == 1)
            await more(browser.sounds, 50)  # a second, in which what had been rendered is seen
            pictures = len(browser.pictures)
            await more(browser.sounds, 25)
            assert len(browser.pictures) <= pictures + 1
            await until(lambda: {"type": "error", "message": LOST_PICTURE} in map(json.loads, browser.events))
            kit.faces[0].lost = False
            await until(lambda: len(browser.pictures) > pictures + 24)
            assert kit.faces[0].starts == 2 and session.performer.playout.stalls == 0

    talked(script)


def test_a_flood_of_written_questions_is_turned_away():
    async def script(kit: Kit, client: TestClient) -> None:
        async with Browser() as browser:
            await browser.connect(client, await opened(client))
            await until(lambda: browser.channel.readyState == "open")
            for _ in range(TEXTS_PER_MINUTE + 3):
                browser.channel.send('{"type": "text", "text": "Hello"}')
            errors = lambda: [event for event in map(json.loads, browser.events) if event["type"] == "error"]  # noqa: E731
            await until(lambda: len(errors()) == 3)
            assert "Too many requests" in errors()[0]["message"]

    talked(script)


def test_a_session_that_nobody_connects_to_ends():
    async def script(kit: Kit, client: TestClient) -> None:
        session = await opened(client)
        assert session["id"] in kit.admission.sessions
        await until(lambda: not kit.admission.sessions)
        answer = await offer(client, session, "")
        assert answer["status"] == "404" and "This session is over" in json.dumps(answer)

    talked(script, replace(TIMEOUTS, connect_s=1.5))


def test_a_session_ends_when_its_time_is_over_and_says_so():
    async def script(kit: Kit, client: TestClient) -> None:
        async with Browser() as browser:
            await browser.connect(client, await opened(client))
            await until(lambda: not kit.admission.sessions)
            assert any(json.loads(event)["type"] == "ended" for event in browser.events)

    talked(script, replace(TIMEOUTS, session_s=6.0))


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
            assert len(kit.admission.sessions) == 1

    talked(script)
