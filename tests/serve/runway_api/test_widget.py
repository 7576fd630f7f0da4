"""What pages of other sites may load and ask, with a publishable key: headers, limits, tools."""

from pathlib import Path
from typing import Any

from serve.live.http.api import PAGES, SHARED
from serve.store.keys import add_key, publishable
from serve.store.tables import Session
from tests.serve.runway_api.api_kit import AVATAR, PRESET, Served, served
from tests.serve.runway_api.test_guard import HOME, OTHER, page_key
from tests.serve.runway_api.test_session_tools import CARD, LAMP

REQUEST: dict[str, Any] = {"model": "gwm1_avatars", "avatar": PRESET}
CLICK = {
    "type": "client_event",
    "name": "click",
    "description": "Clicks.",
    "parameters": [{"name": "target", "description": "Which.", "type": "string", "enum": ["buy"]}],
}


async def joined(one: Served, key: str, origin: str) -> dict[str, Any]:
    """The room of a session that a page has opened."""
    made = await one.ask("POST", "/realtime_sessions", REQUEST, key=key, Origin=origin)
    path = f"/realtime_sessions/{made['id']}"
    while (found := await one.ask("GET", path, key=key, Origin=origin))["status"] != "READY":
        pass
    return await one.ask("POST", f"{path}/consume", key=found["sessionKey"], Origin=origin)


def test_any_page_may_load_the_widget_and_nothing_else_of_ours(tmp_path: Path):
    async def script(one: Served) -> None:
        assert {"/widget.js", "/widget/element.js", "/widget/widget.css", "/call.js"} <= SHARED <= set(PAGES)
        for path in PAGES:
            async with one.http.get(path, headers={"Origin": OTHER}) as answer:
                shared = path in SHARED
                assert (answer.status == 200) == shared, path
                assert (answer.headers.get("Access-Control-Allow-Origin") == "*") == shared, path
            async with one.http.get(path) as answer:  # as a script of another page is asked for
                policy = "cross-origin" if shared else "same-origin"
                assert answer.headers["Cross-Origin-Resource-Policy"] == policy, path
                assert ("Access-Control-Allow-Origin" in answer.headers) == shared, path

    served(script, tmp_path)


def test_a_page_is_told_whom_it_shows(tmp_path: Path):
    async def script(one: Served) -> None:
        key = page_key(one)
        shown = await one.ask("GET", "/widget/noa", key=key, Origin=HOME)
        base = str(one.http.make_url("/v1/characters/noa/image"))
        assert shown == {"name": "Noa", "imageUrl": base, "tools": []}
        async with one.http.get("/v1/characters/noa/image") as image:
            assert image.headers["Cross-Origin-Resource-Policy"] == "cross-origin"
        avatar = await one.ask("POST", "/avatars", AVATAR | {"name": "<b>Vera</b>", "tools": [CLICK, LAMP]})
        await one.until(f"/avatars/{avatar['id']}", "READY")
        shown = await one.ask("GET", f"/widget/{avatar['id']}", key=key, Origin=HOME)
        assert (shown["name"], shown["tools"]) == ("<b>Vera</b>", ["click"])
        assert shown["imageUrl"].startswith(str(one.http.make_url("/v1/files/")))
        await one.ask("GET", "/widget/nobody", key=key, status=404, Origin=HOME)
        await one.ask("GET", "/widget/noa", key=key, status=403, Origin=OTHER)
        await one.ask("GET", "/widget/noa", key="", status=401, Origin=HOME)

    served(script, tmp_path)


def test_a_page_connects_and_leaves_with_the_sessions_key_and_a_page_of_another_origin_does_not(tmp_path: Path):
    async def script(one: Served) -> None:
        room = await joined(one, page_key(one), HOME)
        path, headers = f"/v1/sessions/{room['roomName']}", {"Authorization": f"Bearer {room['token']}"}
        for method, url in (("POST", f"{path}/offer"), ("DELETE", path)):
            async with one.http.request(method, url, json={"sdp": ""}, headers=headers | {"Origin": OTHER}) as refused:
                assert refused.status == 403 and OTHER in (await refused.json())["error"]
        async with one.http.post(f"{path}/offer", json={"sdp": ""}, headers={"Origin": HOME}) as refused:
            assert refused.status == 403  # without its key
        asked = headers | {"Origin": HOME, "Access-Control-Request-Method": "DELETE"}
        async with one.http.options(path, headers=asked) as preflight:
            assert "DELETE" in preflight.headers["Access-Control-Allow-Methods"]
        async with one.http.delete(path, headers=headers | {"Origin": HOME}) as left:
            assert left.status == 204 and left.headers["Access-Control-Allow-Origin"] == HOME
            assert left.headers["Vary"] == "Origin"
        async with one.http.delete(path, headers=headers | {"Origin": HOME}) as gone:  # a page can read why
            assert gone.status == 404 and gone.headers["Access-Control-Allow-Origin"] == HOME

    served(script, tmp_path)


def test_a_session_of_a_secret_key_may_be_joined_from_any_page_and_one_of_our_own_page_from_no_other(tmp_path: Path):
    async def script(one: Served) -> None:
        room = await joined(one, one.key, OTHER)
        async with one.http.delete(
            f"/v1/sessions/{room['roomName']}", headers={"Authorization": f"Bearer {room['token']}", "Origin": OTHER}
        ) as left:
            assert left.status == 204
        async with one.http.post("/v1/sessions", json={}) as opened:
            own = await opened.json()
        async with one.http.delete(
            f"/v1/sessions/{own['id']}", headers={"Authorization": f"Bearer {own['session_key']}", "Origin": OTHER}
        ) as refused:
            assert refused.status == 403

    served(script, tmp_path)


def test_a_page_that_is_refused_can_read_why(tmp_path: Path):
    async def script(one: Served) -> None:
        headers = {"Authorization": f"Bearer {page_key(one)}", "Origin": OTHER}
        async with one.http.get("/v1/widget/noa", headers=headers) as refused:
            assert refused.headers["Access-Control-Allow-Origin"] == OTHER
            assert (await refused.json())["error"] == f"This key is not for pages of {OTHER}."

    served(script, tmp_path)


def test_a_page_without_a_wish_stays_as_long_as_its_key_allows(tmp_path: Path):
    async def script(one: Served) -> None:
        key = page_key(one, max_session_s=60)
        made = await one.ask("POST", "/realtime_sessions", REQUEST, key=key, Origin=HOME)
        assert one.store.do(lambda db: db.get_one(Session, made["id"]).max_s) == 60
        too_long = REQUEST | {"maxDuration": 300}  # the default, but asked for
        await one.ask("POST", "/realtime_sessions", too_long, key=key, status=403, Origin=HOME)
        made = await one.ask("POST", "/realtime_sessions", REQUEST)
        assert one.store.do(lambda db: db.get_one(Session, made["id"]).max_s) == 300

    served(script, tmp_path)


def test_a_key_that_a_page_needs_has_limits_of_sessions_time_and_requests(tmp_path: Path):
    async def script(one: Served) -> None:
        key = one.store.do(lambda db: add_key(db, "page", publishable([HOME])))
        for visitor in ("192.0.2.1", "192.0.2.2"):
            await one.ask("POST", "/realtime_sessions", REQUEST, key=key, Origin=HOME, X_Forwarded_For=visitor)
        third = {"Origin": HOME, "X_Forwarded_For": "192.0.2.3"}
        full = await one.ask("POST", "/realtime_sessions", REQUEST, key=key, status=429, **third)
        assert "2 sessions already" in full["error"]
        long = await one.ask(
            "POST", "/realtime_sessions", REQUEST | {"maxDuration": 301}, key=key, status=403, Origin=HOME
        )
        assert "at most 300" in long["error"]

    served(script, tmp_path, capacity=4)


def test_an_avatar_has_tools_and_a_session_that_names_its_own_has_those(tmp_path: Path):
    async def script(one: Served) -> None:
        avatar = await one.ask("POST", "/avatars", AVATAR | {"tools": [CLICK]})
        assert avatar["tools"][0]["parameters"][0]["enum"] == ["buy"]
        path = f"/avatars/{avatar['id']}"
        wish = REQUEST | {"avatar": {"type": "custom", "avatarId": avatar["id"]}}

        async def tools(**more: Any) -> list[str]:
            made = await one.ask("POST", "/realtime_sessions", wish | more)
            return [tool["name"] for tool in one.store.do(lambda db: db.get_one(Session, made["id"]).tools)]

        assert await tools() == ["click"]
        assert await tools(tools=[CARD]) == ["show_card"] and await tools(tools=[]) == []
        await one.ask("PATCH", path, {"name": "Other"})
        assert await tools() == ["click"]  # they stay
        changed = await one.ask("PATCH", path, {"tools": [LAMP]})
        assert changed["tools"][0]["timeoutSeconds"] == 1 and await tools() == ["lamp"]
        await one.ask("POST", "/avatars", AVATAR | {"tools": [{"type": "client_event", "name": "1"}]}, status=400)

    served(script, tmp_path)
