"""Bots of services that speak what Recall.ai and Attendee document: sent, told why not, called back."""

import asyncio
import contextlib
import shutil
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import numpy as np
import pytest
import soundfile
from aiohttp import web

from serve.bench.browser import BROWSERS, open_browser
from serve.runway_api import meeting_bots, meetings
from serve.runway_api.meeting_bots import BotService, MeetingOptions
from serve.store.tables import Meeting, Session, now_ms
from tests.serve.live.room.test_clients import HERTZ, pitch_of_microphone
from tests.serve.live.server_kit import DEADLINE_S, GREETING
from tests.serve.runway_api.api_kit import PRESET, Served, running, site

KEY = "bot-key"
MEETING = "https://meet.example/abc-defg-hij"
CREATE = {"recall": "/api/v1/bot/", "attendee": "/api/v1/bots"}
LEAVE = {"recall": "/api/v1/bot/{}/leave_call/", "attendee": "/api/v1/bots/{}/leave"}


@dataclass
class Service:
    """Both services at once. refusals: answers that come before it is willing."""

    refusals: list[web.StreamResponse] = field(default_factory=list)
    asked: list[dict[str, Any]] = field(default_factory=list)  # bodies of requests for bots
    headers: list[Any] = field(default_factory=list)
    left: list[str] = field(default_factory=list)  # paths by which bots were called back

    async def answer(self, request: web.BaseRequest) -> web.StreamResponse:
        assert request.method == "POST" and request.content_type == "application/json"
        if request.headers.get("Authorization") != f"Token {KEY}":
            return web.json_response({"detail": "Invalid token."}, status=401)
        self.headers.append(request.headers)
        if self.refusals:
            return self.refusals.pop(0)
        if request.path in CREATE.values():
            self.asked.append(await request.json())
            return web.json_response({"id": f"bot_{len(self.asked)}", "meeting_url": MEETING}, status=201)
        self.left.append(request.path)
        return web.json_response({"id": "bot_1"}, status=200)

    def page(self, provider: str) -> str:
        """What the latest bot was told to open."""
        body = self.asked[-1]
        if provider == "attendee":
            return body["voice_agent_settings"]["url"]
        camera = body["output_media"]["camera"]
        assert camera["kind"] == "webpage"
        return camera["config"]["url"]


@contextlib.asynccontextmanager
async def with_bots(folder: Path, service: Service, *, max_open: int = 10, **more) -> AsyncIterator[Served]:
    async with site(service.answer) as url:
        there = BotService(url=url, key_variable="GWM_TEST_BOTS")
        options = MeetingOptions(recall=there, attendee=there, max_open=max_open)
        async with running(folder, meetings=options, **more) as one:
            yield one


@pytest.fixture(autouse=True)
def _key(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GWM_TEST_BOTS", KEY)
    monkeypatch.setattr(meeting_bots, "LOOK_S", 0.05)
    monkeypatch.setattr(meeting_bots, "PAUSE_S", 0.01)


def scripted(script: Callable[[Served, Service], Awaitable[None]], folder: Path, service: Service, **more) -> None:
    async def run() -> None:
        async with with_bots(folder, service, **more) as one:
            await script(one, service)

    asyncio.run(run())


async def sent(one: Served, provider: str = "recall", **more: Any) -> str:
    """The path of a meeting that was asked for."""
    wish = {"provider": provider, "meetingUrl": MEETING, "botName": "Mia", "avatar": PRESET}
    made = await one.ask("POST", "/meetings", wish | more)
    return f"/meetings/{made['id']}"


def secret_of(page: str) -> str:
    return parse_qs(urlsplit(page).query)["key"][0]


async def opened(one: Served, path: str, key: str) -> dict[str, Any]:
    """What the page of a bot is told once there is a place."""
    found = await one.ask("POST", f"{path}/join", {"fresh": True}, key=key)
    while found["status"] == "NOT_READY":
        await asyncio.sleep(0.02)
        found = await one.ask("POST", f"{path}/join", {"fresh": False}, key=key)
    return found


@pytest.mark.parametrize("provider", ["recall", "attendee"])
def test_a_bot_is_sent_with_the_page_as_its_camera_and_called_back_at_the_end(provider: str, tmp_path: Path):
    async def script(one: Served, service: Service) -> None:
        path = await sent(one, provider)
        joining = await one.until(path, "JOINING")
        assert (joining["botId"], joining["sessionId"], joining["meetingUrl"]) == ("bot_1", None, MEETING)
        (asked,) = service.asked
        assert (asked["meeting_url"], asked["bot_name"]) == (MEETING, "Mia")
        page = service.page(provider)
        assert page.startswith(str(one.http.make_url("/meet?meeting="))) and path.rpartition("/")[2] in page
        room = (await opened(one, path, secret_of(page)))["room"]
        assert room["token"] and (await one.until(path, "RUNNING"))["sessionId"]
        await one.ask("DELETE", path, status=204)
        assert (await one.until(path, "ENDED"))["failure"] is None
        assert service.left == [LEAVE[provider].format("bot_1")]
        await one.ask("POST", f"{path}/join", {"fresh": True}, key=secret_of(page), status=401)
        assert [each["id"] for each in (await one.ask("GET", "/meetings"))["data"]] == [path.rpartition("/")[2]]

    scripted(script, tmp_path, Service())


def test_the_page_opens_with_the_key_of_its_own_meeting_alone(tmp_path: Path):
    async def script(one: Served, service: Service) -> None:
        first, second = await sent(one), await sent(one)
        for path in (first, second):
            await one.until(path, "JOINING")
        keys = {path: secret_of(page) for path in (first, second) for page in pages(service) if path[-36:] in page}
        for wrong in ("", "x", one.key, keys[second]):
            await one.ask("POST", f"{first}/join", {"fresh": True}, key=wrong, status=401)
        hashes = one.store.do(lambda db: [db.get_one(Meeting, path[-36:]).token_sha256 for path in keys])
        assert not set(hashes) & set(keys.values())

    scripted(script, tmp_path, Service())


def pages(service: Service) -> list[str]:
    return [each["output_media"]["camera"]["config"]["url"] for each in service.asked]


def test_a_page_that_is_loaded_again_has_a_session_of_its_own(tmp_path: Path):
    async def script(one: Served, service: Service) -> None:
        path = await sent(one, startScript="Hello, meeting!", maxDuration=60)
        await one.until(path, "JOINING")
        key = secret_of(service.page("recall"))
        await opened(one, path, key)
        before = (await one.ask("GET", path))["sessionId"]
        await opened(one, path, key)
        after = (await one.ask("GET", path))["sessionId"]
        assert (await one.ask("GET", f"/realtime_sessions/{before}"))["status"] == "CANCELLED"
        row = one.store.do(lambda db: db.get_one(Session, after))
        assert (row.start_script, row.max_s) == ("Hello, meeting!", 60)
        one.store.do(lambda db: setattr(db.get_one(Meeting, path[-36:]), "joins", meetings.MAX_JOINS))
        await one.ask("POST", f"{path}/join", {"fresh": True}, key=key, status=429)

    scripted(script, tmp_path, Service())


def test_a_busy_service_is_asked_again_when_it_says_and_once_for_one_bot(tmp_path: Path):
    async def script(one: Served, service: Service) -> None:
        assert (await one.until(await sent(one), "JOINING"))["botId"] == "bot_1"
        assert len(service.headers) == 3 and len({each["Idempotency-Key"] for each in service.headers}) == 1

    busy = [web.json_response({}, status=507, headers={"Retry-After": "0"}), web.json_response({}, status=429)]
    scripted(script, tmp_path, Service(refusals=busy))


@pytest.mark.parametrize(
    ("refusal", "told"),
    [
        (web.json_response({"detail": "Insufficient credit"}, status=402), "recall answers 402: .*Insufficient credit"),
        (web.Response(status=302, headers={"Location": "http://127.0.0.1:9/"}), "recall answers 302"),
        (web.Response(body=b"x" * 2_000_000, status=201), "more than 1 MB"),
        (web.Response(body=b"<html>", status=201), "answers 201 without JSON"),
        (web.json_response({"id": "../../x"}, status=201), "gave the bot no id"),
        (web.json_response([], status=201), "gave the bot no id"),
    ],
    ids=["credit", "redirect", "large", "no JSON", "path", "list"],
)
def test_a_service_that_refuses_or_answers_nonsense_is_a_meeting_that_has_failed(refusal, told: str, tmp_path: Path):
    async def script(one: Served, service: Service) -> None:
        failed = await one.until(await sent(one), "FAILED")
        assert failed["failureCode"] == "BOT.REFUSED"
        with pytest.raises(AssertionError, match=told):
            raise AssertionError(failed["failure"])

    scripted(script, tmp_path, Service(refusals=[refusal]))


def test_what_cannot_be_is_refused_before_a_bot_is_paid_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    async def script(one: Served, service: Service) -> None:
        wish = {"provider": "recall", "meetingUrl": MEETING, "avatar": PRESET}
        for wrong in ({"provider": "zoom"}, {"meetingUrl": "http://meet.example/a"}, {"botName": ""}):
            await one.ask("POST", "/meetings", wish | wrong, status=400)
        nobody = {"type": "runway-preset", "presetId": "nobody"}
        await one.ask("POST", "/meetings", wish | {"avatar": nobody}, status=404)
        await one.ask("POST", "/meetings", wish, status=200)
        full = await one.ask("POST", "/meetings", wish, status=429)
        assert "may be at most 1" in full["error"]
        monkeypatch.setattr(meetings, "SECURE_HOSTS", ())
        plain = await one.ask("POST", "/meetings", wish, status=400)
        assert "public_url=" in plain["error"]

    scripted(script, tmp_path, Service(), max_open=1)


def test_without_a_key_there_are_no_bots(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.delenv("GWM_TEST_BOTS")

    async def script(one: Served, service: Service) -> None:
        wish = {"provider": "recall", "meetingUrl": MEETING, "avatar": PRESET}
        assert "configs/serve.yaml" in (await one.ask("POST", "/meetings", wish, status=400))["error"]

    scripted(script, tmp_path, Service())


def test_a_bot_whose_page_never_opens_is_called_back(tmp_path: Path):
    async def script(one: Served, service: Service) -> None:
        path = await sent(one)
        await one.until(path, "JOINING")
        one.store.do(lambda db: setattr(db.get_one(Meeting, path[-36:]), "open_until_ms", now_ms() - 1))
        failed = await one.until(path, "FAILED")
        assert failed["failureCode"] == "BOT.NOT_OPENED" and len(service.left) == 1

    scripted(script, tmp_path, Service())


def test_a_page_opens_nothing_while_its_bot_is_called_back(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(meeting_bots, "PAUSE_S", 60.0)

    async def script(one: Served, service: Service) -> None:
        path = await sent(one)
        await one.until(path, "JOINING")
        service.refusals = [web.json_response({}, status=503)]
        await one.ask("DELETE", path, status=204)
        await one.ask("POST", f"{path}/join", {"fresh": True}, key=secret_of(service.page("recall")), status=401)
        assert (await one.ask("GET", path))["status"] == "LEAVING"

    scripted(script, tmp_path, Service())


def test_a_bot_that_cannot_be_called_back_is_told_about(tmp_path: Path):
    async def script(one: Served, service: Service) -> None:
        path = await sent(one)
        await one.until(path, "JOINING")
        service.refusals = [web.json_response({"error": "not in a meeting"}, status=400)]
        await one.ask("DELETE", path, status=204)
        failed = await one.until(path, "FAILED")
        assert failed["failureCode"] == "BOT.LEFT_ALONE" and "not in a meeting" in failed["failure"]

    scripted(script, tmp_path, Service())


def test_after_a_restart_bots_of_sessions_that_were_lost_are_called_back_and_none_is_sent_twice(tmp_path: Path):
    """Of a server that was stopped while it asked for a bot nobody knows whether it has come."""

    async def script(one: Served, service: Service) -> None:
        def lost(db) -> list[str]:
            session = Session(status="FAILED", avatar_name="Noa", tools=[], max_s=60, failure="Stopped.")
            session.failure_code = "SERVER.STOPPED"
            db.add(session)
            db.flush()
            common = {"provider": "recall", "url": MEETING, "bot_name": "Mia", "request": {}, "base_url": "https://x"}
            common |= {"owner": "gone", "alive_ms": 0, "open_until_ms": now_ms() + 60_000}
            rows = [
                Meeting(**common, status="RUNNING", bot_id="bot_7", session_id=session.id),
                Meeting(**common, status="PENDING", token_sha256="0" * 64),
            ]
            db.add_all(rows)
            db.flush()
            return [row.id for row in rows]

        running_one, asking = one.store.do(lost)
        failed = await one.until(f"/meetings/{running_one}", "FAILED")
        assert (failed["failure"], service.left) == ("Stopped.", [LEAVE["recall"].format("bot_7")])
        assert (await one.until(f"/meetings/{asking}", "FAILED"))["failureCode"] == "BOT.UNKNOWN"
        assert service.asked == []

    scripted(script, tmp_path, Service())


@pytest.mark.slow
@pytest.mark.skipif(not any(map(shutil.which, BROWSERS)), reason="no Chromium: apt-get install chromium")
@pytest.mark.parametrize("provider", ["recall", "attendee"])
def test_the_page_begins_by_itself_shows_speaks_hears_and_its_bot_leaves_with_the_character(
    provider: str, tmp_path: Path
):
    """A browser as the services run it: 1280 x 720, the meeting as its microphone, and nobody who clicks."""
    pytest.importorskip("playwright")
    microphone = tmp_path / "meeting.wav"
    soundfile.write(microphone, 0.3 * np.sin(2 * np.pi * HERTZ * np.arange(480_000) / 48_000), 48_000)

    async def run() -> None:
        service = Service()
        async with open_browser(microphone) as browser, with_bots(tmp_path, service) as one:
            path = await sent(one, provider)
            await one.until(path, "JOINING")
            page = await (await browser.new_context(viewport={"width": 1280, "height": 720})).new_page()
            asked: list[str] = []
            page.on("request", lambda request: asked.append(request.url))
            await page.goto(service.page(provider))
            await until(page, "document.body.dataset.state === 'live'")
            await until(page, "document.getElementById('face').getVideoPlaybackQuality().totalVideoFrames > 24")
            box = await page.evaluate("document.getElementById('face').getBoundingClientRect().toJSON()")
            assert (box["width"], box["height"]) == (1280, 720)
            assert not await page.evaluate("document.getElementById('face').muted")
            session = (await one.until(path, "RUNNING"))["sessionId"]
            transcript = f"/avatar_conversations/{session}"
            async with asyncio.timeout(DEADLINE_S):
                while not (lines := (await one.ask("GET", transcript))["transcript"]):
                    await asyncio.sleep(0.05)
            assert lines[0]["content"].startswith(GREETING.split()[0])
            async with asyncio.timeout(DEADLINE_S):
                while sum(map(len, one.kit.faces[0].users)) < 72_000:
                    await asyncio.sleep(0.05)
            assert abs(pitch_of_microphone(one) - HERTZ) < 5
            home = str(one.http.make_url("/"))
            assert all(url.startswith(home) for url in asked), asked
            await one.ask("DELETE", f"/realtime_sessions/{session}", status=204)
            await until(page, "document.body.dataset.state === 'over'")
            await one.until(path, "ENDED")
            assert service.left == [LEAVE[provider].format("bot_1")]

    asyncio.run(run())


async def until(page: Any, condition: str) -> None:
    async with asyncio.timeout(DEADLINE_S):
        while not await page.evaluate(condition):
            await asyncio.sleep(0.05)
