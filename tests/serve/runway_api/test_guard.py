"""A key opens what it is for, from where it is for, and as often; nothing else opens anything."""

import asyncio
from pathlib import Path
from typing import Any

import pytest

from serve.store.keys import Limits, add_key
from serve.store.tables import Session, now_ms
from tests.serve.runway_api.api_kit import AVATAR, PRESET, Served, served

HOME, OTHER = "https://shop.example", "https://evil.example"
REQUEST: dict[str, Any] = {"model": "gwm1_avatars", "avatar": PRESET, "maxDuration": 60}


def page_key(one: Served, **limits: int) -> str:
    return one.store.do(lambda db: add_key(db, "page", Limits(origins=[HOME], **limits)))


async def ready(one: Served) -> dict[str, Any]:
    made = await one.ask("POST", "/realtime_sessions", REQUEST)
    return await one.until(f"/realtime_sessions/{made['id']}", "READY")


@pytest.mark.parametrize("key", ["", "key_0", "My API Key", "\u2603".encode().decode("latin1")])
@pytest.mark.parametrize("path", ["/avatars", "/documents", "/avatar_conversations", "/organization", "/voices"])
def test_without_a_key_that_was_made_here_nothing_is_read(key: str, path: str, tmp_path: Path):
    async def script(one: Served) -> None:
        refused = await one.ask("GET", path, key=key, status=401)
        assert set(refused) == {"error"} and "python -m serve.keys" in refused["error"]

    served(script, tmp_path)


def test_a_page_opens_sessions_with_its_key_and_reads_the_answers(tmp_path: Path):
    async def script(one: Served) -> None:
        key = page_key(one)
        made = await one.ask("POST", "/realtime_sessions", REQUEST, key=key, Origin=HOME)
        path = f"/v1/realtime_sessions/{made['id']}"
        headers = {"Authorization": f"Bearer {key}", "Origin": HOME}
        async with one.http.get(path, headers=headers) as answer:
            assert answer.headers["Access-Control-Allow-Origin"] == HOME and "Origin" in answer.headers["Vary"]

    served(script, tmp_path)


def test_the_organizations_limit_is_the_room_that_there_is_now(tmp_path: Path):
    async def script(one: Served) -> None:
        for places in (2, 5):
            one.kit.capacity = places
            limit = (await one.ask("GET", "/organization"))["tier"]["models"]["gwm1_avatars"]
            assert limit["maxConcurrentGenerations"] == places

    served(script, tmp_path)


@pytest.mark.parametrize("origin", [OTHER, "null", f"{HOME}.evil.example", "http://shop.example", ""])
def test_a_key_of_one_origin_does_nothing_on_pages_of_another(origin: str, tmp_path: Path):
    async def script(one: Served) -> None:
        headers = {"Origin": origin} if origin else {}
        await one.ask("POST", "/realtime_sessions", REQUEST, key=page_key(one), status=403, **headers)
        assert (await one.ask("GET", "/organization"))["usage"]["models"]["gwm1_avatars"]["dailyGenerations"] == 0

    served(script, tmp_path)


@pytest.mark.parametrize(
    ("method", "path"),
    [("GET", "/avatars"), ("POST", "/avatars"), ("GET", "/avatar_conversations"), ("POST", "/uploads")],
)
def test_a_publishable_key_reads_and_makes_nothing_but_sessions(method: str, path: str, tmp_path: Path):
    async def script(one: Served) -> None:
        await one.ask(method, path, AVATAR if method == "POST" else None, key=page_key(one), status=403, Origin=HOME)

    served(script, tmp_path)


def test_a_publishable_key_does_not_see_sessions_of_others(tmp_path: Path):
    async def script(one: Served) -> None:
        mine = await ready(one)
        path = f"/realtime_sessions/{mine['id']}"
        await one.ask("GET", path, key=page_key(one), status=404, Origin=HOME)
        await one.ask("DELETE", path, key=page_key(one), status=404, Origin=HOME)

    served(script, tmp_path)


@pytest.mark.parametrize("field", [{"personality": "Obey me."}, {"startScript": "Buy!"}, {"maxDuration": 61}])
def test_a_page_cannot_change_the_avatar_or_stay_longer(field: dict[str, Any], tmp_path: Path):
    async def script(one: Served) -> None:
        key = page_key(one, max_session_s=60)
        await one.ask("POST", "/realtime_sessions", REQUEST | field, key=key, status=403, Origin=HOME)

    served(script, tmp_path)


def test_a_key_has_as_many_sessions_at_once_and_requests_a_minute_as_it_allows(tmp_path: Path):
    async def script(one: Served) -> None:
        key = page_key(one, max_sessions=1, requests_per_minute=3)
        await one.ask("POST", "/realtime_sessions", REQUEST, key=key, Origin=HOME)
        full = await one.ask("POST", "/realtime_sessions", REQUEST, key=key, status=429, Origin=HOME)
        assert "1 sessions already" in full["error"]
        await one.ask("POST", "/realtime_sessions", REQUEST, key=key, status=429, Origin=HOME)
        often = await one.ask("POST", "/realtime_sessions", REQUEST, key=key, status=429, Origin=HOME)
        assert "Too many requests" in often["error"]

    served(script, tmp_path)


def test_one_visitor_of_a_page_does_not_take_all_sessions_of_its_key(tmp_path: Path):
    """One who runs away with a session that nobody joined, as by loading the page again, is given another."""

    async def script(one: Served) -> None:
        key, path = page_key(one, max_sessions=3, sessions_per_visitor=1), "/realtime_sessions"
        mine = {"Origin": HOME, "X_Forwarded_For": "192.0.2.7"}
        first = await one.ask("POST", path, REQUEST, key=key, **mine)
        again = await one.ask("POST", path, REQUEST, key=key, **mine)
        assert (await one.until(f"{path}/{first['id']}", "CANCELLED"))["status"] == "CANCELLED"
        one.store.do(lambda db: setattr(db.get_one(Session, again["id"]), "status", "RUNNING"))
        refused = await one.ask("POST", path, REQUEST, key=key, status=429, **mine)
        assert "You have 1 sessions on this page" in refused["error"]
        await one.ask("POST", path, REQUEST, key=key, Origin=HOME, X_Forwarded_For="192.0.2.8")
        network = {"Origin": HOME, "X_Forwarded_For": "2001:db8::1"}
        inside = await one.ask("POST", path, REQUEST, key=key, **network)
        network["X_Forwarded_For"] = "2001:db8::ffff"  # whoever has one IPv6 address has billions
        await one.ask("POST", path, REQUEST, key=key, **network)
        assert (await one.until(f"{path}/{inside['id']}", "CANCELLED"))["status"] == "CANCELLED"
        await one.ask("DELETE", f"{path}/{again['id']}", status=204)
        row = one.store.do(lambda db: db.get_one(Session, again["id"]))
        assert row.visitor is None  # nothing of an address stays

    served(script, tmp_path)


def test_one_page_does_not_take_the_sessions_of_the_others_of_its_key(tmp_path: Path):
    async def script(one: Served) -> None:
        limits = Limits(origins=[HOME, OTHER], sessions_per_origin=1)
        key, path = one.store.do(lambda db: add_key(db, "two", limits)), "/realtime_sessions"
        await one.ask("POST", path, REQUEST, key=key, Origin=HOME)
        refused = await one.ask("POST", path, REQUEST, key=key, status=429, Origin=HOME)
        assert "This page has 1 sessions" in refused["error"]
        await one.ask("POST", path, REQUEST, key=key, Origin=OTHER)

    served(script, tmp_path)


def test_a_session_key_opens_its_session_once(tmp_path: Path):
    async def script(one: Served) -> None:
        first, second = await ready(one), await ready(one)
        path = f"/realtime_sessions/{first['id']}/consume"
        for wrong in ("", "x", one.key, second["sessionKey"]):
            await one.ask("POST", path, key=wrong, status=401)
        both = await asyncio.gather(*(once(one, path, first["sessionKey"]) for _ in range(2)))
        assert sorted(both) == [200, 401]
        await one.ask("POST", path, key=first["sessionKey"], status=401)

    served(script, tmp_path)


async def once(one: Served, path: str, key: str) -> int:
    async with one.http.post(f"/v1{path}", headers={"Authorization": f"Bearer {key}"}) as answer:
        return answer.status


def test_a_session_key_that_came_too_late_opens_nothing(tmp_path: Path):
    async def script(one: Served) -> None:
        late = await ready(one)
        one.store.do(lambda db: setattr(db.get_one(Session, late["id"]), "expires_ms", now_ms() - 1))
        await one.ask("POST", f"/realtime_sessions/{late['id']}/consume", key=late["sessionKey"], status=401)

    served(script, tmp_path)


def test_the_store_forgets_a_session_key_when_it_was_used(tmp_path: Path):
    async def script(one: Served) -> None:
        mine = await ready(one)
        await one.ask("POST", f"/realtime_sessions/{mine['id']}/consume", key=mine["sessionKey"])
        row = one.store.do(lambda db: db.get_one(Session, mine["id"]))
        assert (row.session_key, row.room) == (None, {})

    served(script, tmp_path)


def test_any_page_may_consume_with_a_session_key_and_none_may_read_the_rest(tmp_path: Path):
    async def script(one: Served) -> None:
        headers = {"Origin": OTHER, "Access-Control-Request-Method": "POST"}
        async with one.http.options("/v1/realtime_sessions/x/consume", headers=headers) as answer:
            assert answer.status == 204 and "Authorization" in answer.headers["Access-Control-Allow-Headers"]
        async with one.http.get("/v1/avatars", headers={"Origin": OTHER, "Authorization": f"Bearer {one.key}"}) as read:
            assert "Access-Control-Allow-Origin" not in read.headers
        async with one.http.post("/v1/sessions", json={}, headers={"Origin": OTHER}) as refused:
            assert refused.status == 403  # what asks for no key is for the server's own pages
        async with one.http.get("/v1/avatars", headers={"Host": "rebound.example"}) as rebound:
            assert rebound.status == 403

    served(script, tmp_path)


@pytest.mark.parametrize(
    ("body", "status"),
    [
        (b"{", 400),
        (b"[]", 400),
        (b"", 400),
        (b"\xff\xfe", 400),
        (b"[" * 100_000, 400),
        (b'{"model": 1e999}', 400),
        (b'{"name": "' + b"x" * 300_000, 413),
    ],
    ids=["cut", "list", "empty", "no text", "deep", "infinite", "large"],
)
def test_a_body_that_is_no_request_is_refused(body: bytes, status: int, tmp_path: Path):
    async def script(one: Served) -> None:
        headers = {"Authorization": f"Bearer {one.key}"}
        async with one.http.post("/v1/realtime_sessions", data=body, headers=headers) as refused:
            assert refused.status == status and "error" in await refused.json()

    served(script, tmp_path)


@pytest.mark.parametrize(
    "path",
    ["/avatars/..%2f..%2fkeys", "/files/..%2f..%2fetc%2fpasswd", "/files/x", "/nothing", "/tasks/%00"],
)
def test_no_path_leads_to_what_is_not_there(path: str, tmp_path: Path):
    async def script(one: Served) -> None:
        assert set(await one.ask("GET", path, status=404)) == {"error"}

    served(script, tmp_path)
