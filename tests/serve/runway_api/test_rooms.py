"""A realtime session from its request to its transcript, with a browser in it."""

import asyncio
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

from pipecat.processors.frame_processor import FrameProcessor

from serve.live.characters import Character
from serve.live.http.conversation import Conversation
from serve.runway_api import sessions as rest_sessions
from serve.store.database import Store
from serve.store.owners import LOST, SILENT_MS, give_up_lost_sessions
from serve.store.tables import Session
from tests.serve.live.server_kit import DEADLINE_S, GREETING, TIMEOUTS, Browser
from tests.serve.runway_api.api_kit import AVATAR, PRESET, Served, running, served

REQUEST = {"model": "gwm1_avatars", "avatar": PRESET}


async def opened(one: Served, **more: Any) -> tuple[str, dict[str, Any]]:
    made = await one.ask("POST", "/realtime_sessions", REQUEST | more)
    path = f"/realtime_sessions/{made['id']}"
    return path, await one.until(path, "READY", "FAILED")


async def entered(one: Served, path: str, ready: dict[str, Any], browser: Browser) -> None:
    """Consume, and connect with what it gives."""
    room = await one.ask("POST", f"{path}/consume", key=ready["sessionKey"])
    await browser.connect(one.http, {"id": room["roomName"], "session_key": room["token"]})
    await one.until(path, "RUNNING")


async def heard(browser: Browser, words: str) -> None:
    async with asyncio.timeout(DEADLINE_S):
        while words not in " ".join(e["text"] for e in map(json.loads, browser.events) if e["type"] == "caption"):
            await asyncio.sleep(0.05)


def test_a_session_is_ready_consumed_running_and_completed_with_what_was_said(tmp_path: Path):
    async def script(one: Served) -> None:
        path, ready = await opened(one, personality="Be brief.", maxDuration=60)
        async with Browser() as browser:
            await entered(one, path, ready, browser)
            await heard(browser, GREETING)
            browser.channel.send('{"type": "text", "text": "What is your name?"}')
            await heard(browser, "Noa")
            conversation = f"/avatar_conversations/{ready['id']}"
            assert (await one.ask("GET", conversation))["status"] == "in_progress"
            browser.channel.send('{"type": "END_CALL"}')
            completed = await one.until(path, "COMPLETED")
        whole = await one.ask("GET", conversation)
        assert (whole["status"], whole["maxDuration"], completed["duration"]) == ("ended", 60, whole["duration"])
        said = [(line["role"], line["content"]) for line in whole["transcript"]]
        assert said[:2] == [("assistant", GREETING), ("user", "What is your name?")]
        assert said[2][0] == "assistant" and "Noa" in said[2][1]
        (listed,) = (await one.ask("GET", "/avatar_conversations"))["data"]
        assert (listed["id"], listed["avatar"]["presetId"]) == (ready["id"], "game-character")

    served(script, tmp_path)


def test_an_avatar_speaks_its_own_words(tmp_path: Path):
    async def script(one: Served) -> None:
        avatar = await one.ask("POST", "/avatars", AVATAR | {"startScript": "Hi!"})
        path, _ = await opened(one, avatar={"type": "custom", "avatarId": avatar["id"]})  # it waits for the picture
        (session,) = one.kit.admission.sessions.values()
        assert session.character.start_script == "Hi!" and session.character.portrait.shape == (32, 48, 3)
        assert session.character.instruction.startswith("Be brief.")
        await one.ask("DELETE", path, status=204)

    served(script, tmp_path)


def test_a_session_sees_no_more_than_its_avatar_and_its_request_allow(tmp_path: Path):
    async def script(one: Served) -> None:
        avatar = await one.ask("POST", "/avatars", AVATAR | {"vision": "on_request"})
        assert avatar["vision"] == "on_request"
        whom = {"avatar": {"type": "custom", "avatarId": avatar["id"]}}
        for more, mode in ((whom, "on_request"), (whom | {"vision": "every_second"}, "on_request")):
            assert await seen_by(one, more) == mode
        for more, mode in (({}, "every_second"), ({"vision": "on_request"}, "on_request"), ({"vision": "off"}, None)):
            assert await seen_by(one, more) == mode
        await one.ask("PATCH", f"/avatars/{avatar['id']}", {"name": "Vera"})
        assert (await one.ask("GET", f"/avatars/{avatar['id']}"))["vision"] == "on_request"
        changed = await one.ask("PATCH", f"/avatars/{avatar['id']}", {"vision": "off"})
        assert changed["vision"] == "off" and await seen_by(one, whom | {"vision": "every_second"}) is None
        for path, body in (("/avatars", AVATAR), ("/realtime_sessions", REQUEST)):
            await one.ask("POST", path, body | {"vision": "always"}, status=400)

    served(script, tmp_path)


async def seen_by(one: Served, more: dict[str, Any]) -> str | None:
    """How often a session with this request looks at what is shown; None: never."""
    path, _ = await opened(one, **more)
    (session,) = one.kit.admission.sessions.values()
    assert isinstance(session, Conversation)
    mode = None if session.sight is None else session.sight.vision.mode
    await one.ask("DELETE", path, status=204)
    async with asyncio.timeout(DEADLINE_S):
        while one.kit.admission.sessions:
            await asyncio.sleep(0.02)
    return mode


def test_words_that_come_after_what_was_written_meanwhile_belong_to_the_line_before(tmp_path: Path):
    async def script(one: Served) -> None:
        path, _ = await opened(one)
        (session,) = one.kit.admission.sessions.values()
        record = session.witness
        assert record is not None

        def said(who: str, text: str) -> None:
            record.said({"type": "caption", "who": who, "text": text})

        thinking = {"type": "state", "state": "thinking"}
        said("character", "Once there")
        said("user", "Stop.")
        said("character", "was")  # heard before the server knew
        said("user", "Please.")
        record.said(thinking)
        said("character", "Yes.")
        record.said(thinking)  # asked again after a tool: nobody spoke meanwhile
        said("character", "I stop.")
        await asyncio.sleep(0)
        conversation = path.replace("realtime_sessions", "avatar_conversations")
        async with asyncio.timeout(DEADLINE_S):
            while len(lines := (await one.ask("GET", conversation))["transcript"]) < 3 or "stop" not in str(lines):
                await asyncio.sleep(0.02)
        assert [(line["role"], line["content"]) for line in lines] == [
            ("assistant", "Once there was"),
            ("user", "Stop. Please."),
            ("assistant", "Yes. I stop."),
        ]
        await one.ask("DELETE", path, status=204)

    served(script, tmp_path)


def test_a_document_is_answered_from_and_a_change_of_it_holds_for_the_next_question(tmp_path: Path):
    async def script(one: Served) -> None:
        content = {"name": "Hours", "content": "The shop opens at nine."}
        document = await one.ask("POST", "/documents", content)
        avatar = await one.ask("POST", "/avatars", AVATAR | {"documentIds": [document["id"]], "startScript": "Hi!"})
        path, ready = await opened(one, avatar={"type": "custom", "avatarId": avatar["id"]})
        async with Browser() as browser:
            await entered(one, path, ready, browser)
            ask = lambda: browser.channel.send('{"type": "text", "text": "When does the shop open?"}')  # noqa: E731
            await heard(browser, "Hi!")
            ask()
            await heard(browser, "Hours says: The shop opens at nine.")
            await one.ask("PATCH", f"/documents/{document['id']}", {"content": "The shop opens at ten."}, status=204)
            ask()
            await heard(browser, "Hours says: The shop opens at ten.")
            await one.ask("DELETE", f"/documents/{document['id']}", status=204)
            ask()
            await heard(browser, "You said: When does the shop open?")
            await one.ask("DELETE", path, status=204)

    served(script, tmp_path)


def test_a_cancelled_session_gives_its_place_to_the_one_that_waits(tmp_path: Path):
    async def script(one: Served) -> None:
        first, _ = await opened(one)
        made = await one.ask("POST", "/realtime_sessions", REQUEST)
        second = f"/realtime_sessions/{made['id']}"
        async with asyncio.timeout(DEADLINE_S):
            while not (await one.ask("GET", second))["queued"]:
                await asyncio.sleep(0.02)
        await one.ask("DELETE", first, status=204)
        assert (await one.ask("GET", first))["status"] == "CANCELLED"
        await one.until(second, "READY")

    served(script, tmp_path, capacity=1)


def test_two_hundred_requests_at_once_wait_in_a_queue_without_a_place_lost(tmp_path: Path):
    async def script(one: Served) -> None:
        made = await asyncio.gather(*(one.ask("POST", "/realtime_sessions", REQUEST) for _ in range(200)))
        paths = [f"/realtime_sessions/{each['id']}" for each in made]
        await one.until(paths[-1], "NOT_READY")
        async with asyncio.timeout(DEADLINE_S):
            while len(one.kit.admission.sessions) < 2:
                await asyncio.sleep(0.02)
        statuses = [(await one.ask("GET", path))["status"] for path in paths]
        assert statuses.count("READY") == 2 and statuses.count("NOT_READY") == 198
        async with asyncio.timeout(DEADLINE_S):
            while one.kit.gauges.queued._value.get() < 198:  # all who wait are counted, and told
                await asyncio.sleep(0.02)
        assert (await one.ask("GET", paths[-1]))["queued"]
        one.store.do(lambda db: db.query(Session).update({"status": "CANCELLED"}))
        async with asyncio.timeout(DEADLINE_S):
            while one.kit.admission.sessions:
                await asyncio.sleep(0.02)

    served(script, tmp_path)


def test_a_queue_that_is_full_refuses_without_being_asked_again(tmp_path: Path, monkeypatch):
    monkeypatch.setattr(rest_sessions, "max_waiting", lambda places: 0)

    async def script(one: Served) -> None:
        async with one.http.post(
            "/v1/realtime_sessions", json=REQUEST, headers={"Authorization": f"Bearer {one.key}"}
        ) as refused:
            assert (refused.status, refused.headers["x-should-retry"]) == (429, "false")

    served(script, tmp_path)


def test_nobody_who_comes_leaves_a_failed_session(tmp_path: Path):
    async def script(one: Served) -> None:
        path, _ = await opened(one)
        failed = await one.until(path, "FAILED")
        assert failed["failureCode"] == "SESSION.EXPIRED"

    served(script, tmp_path, timeouts=replace(TIMEOUTS, connect_s=0.5))


def test_rooms_elsewhere_are_refused_by_the_session_not_by_the_request(tmp_path: Path):
    async def script(one: Served) -> None:
        room = {"type": "livekit", "url": "wss://example.com", "token": "t", "roomName": "r"}
        _, failed = await opened(one, integration=room)
        assert failed["failureCode"] == "INTEGRATION.UNSUPPORTED"

    served(script, tmp_path)


def test_a_session_lasts_no_longer_than_its_max_duration(tmp_path: Path):
    async def script(one: Served) -> None:
        path, ready = await opened(one, maxDuration=10)
        (session,) = one.kit.admission.sessions.values()
        session.witness.max_s = 0.3  # pyright: ignore
        async with Browser() as browser:
            await entered(one, path, ready, browser)
            await one.until(path, "COMPLETED")
            assert any("maxDuration" in event for event in browser.events)

    served(script, tmp_path)


def test_after_a_restart_everything_is_there_and_what_ran_has_failed(tmp_path: Path):
    async def run() -> None:
        async with running(tmp_path) as one:
            await one.ask("POST", "/documents", {"name": "Hours", "content": "Nine to five."})
            avatar = await one.ask("POST", "/avatars", AVATAR)
            await one.until(f"/avatars/{avatar['id']}", "READY")
            path, ready = await opened(one)
            browser = Browser()
            await entered(one, path, ready, browser)
            key = one.key
        await browser.close()
        async with running(tmp_path) as one:
            failed = await one.ask("GET", path, key=key)
            assert (failed["status"], failed["failureCode"]) == ("FAILED", "SERVER.STOPPED")
            assert len((await one.ask("GET", "/documents", key=key))["data"]) == 1
            assert (await one.ask("GET", f"/avatars/{avatar['id']}", key=key))["status"] == "READY"
            assert len((await one.ask("GET", "/avatar_conversations", key=key))["data"]) == 1

    asyncio.run(run())


def test_a_server_that_was_killed_leaves_sessions_that_another_gives_up(tmp_path: Path):
    store = Store(f"sqlite:///{tmp_path}/gwm.sqlite")
    row = Session(status="RUNNING", avatar_name="Noa", tools=[], max_s=9, owner="killed", alive_ms=0)
    store.do(lambda db: db.add(row))
    store.do(give_up_lost_sessions)
    assert store.do(lambda db: db.get_one(Session, row.id).failure) == LOST and SILENT_MS > 0
    store.close()


def test_a_session_that_cannot_be_opened_fails_and_the_next_one_is_opened(tmp_path: Path):
    async def script(one: Served) -> None:
        make = one.kit.make_llm

        def fails(character: Character) -> FrameProcessor:
            one.kit.make_llm = make
            raise KeyError(character.key)

        one.kit.make_llm = fails
        _, failed = await opened(one)
        assert (failed["status"], failed["failureCode"]) == ("FAILED", "INTERNAL")
        _, ready = await opened(one)
        assert ready["status"] == "READY"
        one.kit.faces[0].stops = 1  # it was made, and never started

    served(script, tmp_path)
