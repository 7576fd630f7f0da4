"""Conversations that were held are listed by who and when, and counted by day."""

from datetime import UTC, datetime
from pathlib import Path

from serve.store.tables import Avatar, Entry, Session
from tests.serve.runway_api.api_kit import Served, served

TOOL = {"type": "client_event", "name": "show", "description": "Shows a card.", "parameters": []}


def at(day: int, hour: int = 12) -> int:
    return round(datetime(2026, 3, day, hour, tzinfo=UTC).timestamp() * 1000)


def held(day: int, seconds: int, **values) -> Session:
    begin = at(day)
    times = {"created_ms": begin, "started_ms": begin, "ended_ms": begin + 1000 * seconds}
    return Session(
        **{"status": "COMPLETED", "avatar_name": "Noa", "preset": "noa", "tools": [], "max_s": 300} | times | values
    )


def test_days_without_a_session_count_too_and_the_last_day_does_not(tmp_path: Path):
    async def script(one: Served) -> None:
        never = held(1, 0, started_ms=None)
        one.store.do(lambda db: db.add_all([held(1, 10), held(1, 20), held(3, 31), held(4, 99), never]))
        found = await one.ask("GET", "/avatar_usage?startDate=2026-03-01&endDate=2026-03-04")
        assert [(day["date"], day["sessions"], day["seconds"]) for day in found["byDay"]] == [
            ("2026-03-01", 2, 30),
            ("2026-03-02", 0, 0),
            ("2026-03-03", 1, 31),
        ]
        assert (found["totalSessions"], found["totalSeconds"], found["avgDurationSeconds"]) == (3, 61, 20)
        await one.ask("GET", "/avatar_usage?startDate=2026-03-04&endDate=2026-03-01", status=400)
        for beyond in ("9999-12-31T23:59:59Z", "0001-01-01"):  # a day more, or another zone, is in no calendar
            await one.ask("POST", "/organization/usage", {"startDate": beyond}, status=400)

    served(script, tmp_path)


def test_the_list_is_of_one_avatar_and_one_time(tmp_path: Path):
    async def script(one: Served) -> None:
        one.store.do(lambda db: db.add_all([held(1, 10), held(2, 10, preset="pip"), held(3, 10)]))

        async def days(query: str) -> list[str]:
            return [each["createdAt"][:10] for each in (await one.ask("GET", f"/avatar_conversations?{query}"))["data"]]

        assert await days("avatar=noa") == ["2026-03-03", "2026-03-01"]
        assert await days("startDate=2026-03-02&endDate=2026-03-03") == ["2026-03-02"]

    served(script, tmp_path)


def test_tools_and_a_failure_are_told(tmp_path: Path):
    async def script(one: Served) -> None:
        failed = held(1, 5, status="FAILED", failure="It broke.", failure_code="INTERNAL", tools=[TOOL])
        one.store.do(lambda db: db.add(failed))
        (head,) = (await one.ask("GET", "/avatar_conversations"))["data"]
        assert (head["status"], head["hasTools"], head["duration"]) == ("failed", True, 5)
        whole = await one.ask("GET", f"/avatar_conversations/{head['id']}")
        assert (whole["failure"], whole["failureCode"], whole["tools"][0]["name"]) == ("It broke.", "INTERNAL", "show")

    served(script, tmp_path)


def test_a_deleted_avatar_leaves_its_conversations_without_a_name(tmp_path: Path):
    async def script(one: Served) -> None:
        voice = {"type": "runway-live-preset", "preset_id": "clara"}
        avatar = Avatar(name="V", personality="p", voice=voice, image="", crops_to_face=True, status="READY")
        one.store.do(lambda db: db.add(avatar))
        one.store.do(lambda db: db.add(held(1, 5, preset=None, avatar_id=avatar.id)))
        await one.ask("DELETE", f"/avatars/{avatar.id}", status=204)
        (head,) = (await one.ask("GET", "/avatar_conversations"))["data"]
        assert head["avatar"] == {"type": "custom", "id": None, "name": None}

    served(script, tmp_path)


def test_deleting_a_conversation_deletes_its_transcript_but_not_while_it_is_held(tmp_path: Path):
    async def script(one: Served) -> None:
        ended, live = held(1, 5), held(2, 5, status="RUNNING", owner="another")
        one.store.do(lambda db: db.add_all([ended, live]))
        one.store.do(lambda db: db.add(Entry(session_id=ended.id, position=0, role="user", content="secret")))
        await one.ask("DELETE", f"/avatar_conversations/{live.id}", status=409)
        await one.ask("DELETE", f"/avatar_conversations/{ended.id}", status=204)
        assert one.store.do(lambda db: db.query(Entry).count()) == 0
        await one.ask("GET", f"/avatar_conversations/{ended.id}", status=404)

    served(script, tmp_path)
