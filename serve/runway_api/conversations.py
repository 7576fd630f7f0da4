"""Conversations that were held, with what was said; and how much was talked."""

from datetime import UTC, date, datetime, timedelta
from typing import Any, Literal

from sqlalchemy import delete, select
from sqlalchemy.orm import Session as Db

from serve.runway_api import answers
from serve.runway_api.answers import Answer, Listed, Time, by_status, time_of, time_or_none
from serve.runway_api.call import ApiError, Call, not_found
from serve.runway_api.requests import ConversationQuery, DaysQuery, NoQuery
from serve.runway_api.sessions import duration_s
from serve.store.owners import LIVE
from serve.store.pages import read_page
from serve.store.tables import Avatar, Entry, Session


class PresetHead(Answer):
    type: Literal["runway-preset"] = "runway-preset"
    preset_id: str
    name: str


class CustomHead(Answer):
    type: Literal["custom"] = "custom"
    id: str | None
    name: str | None


class CustomImage(CustomHead):
    image_url: str | None


class Preset(Answer):
    type: Literal["runway-preset"] = "runway-preset"
    preset_id: str


class ConversationHead(Answer):
    id: str
    name: str
    avatar: PresetHead | CustomHead
    created_at: Time
    duration: int | None
    has_tools: bool
    status: Literal["in_progress", "ended", "failed"]


class ToolSummary(Answer):
    type: Literal["client_event", "backend_rpc"]
    name: str
    description: str


class Line(Answer):
    """Of a transcript."""

    role: Literal["user", "assistant"]
    content: str | None
    timestamp: Time
    tool_calls: list[dict[str, Any]]
    tool_results: list[dict[str, Any]]


class Conversation(Answer):
    id: str
    name: str
    avatar: Preset | CustomImage
    created_at: Time
    started_at: Time | None
    duration: int | None
    max_duration: int
    recording_url: None = None
    tools: list[ToolSummary]
    transcript: list[Line]
    status: Literal["in_progress"]


class EndedConversation(Conversation):
    status: Literal["ended"]  # pyright: ignore[reportIncompatibleVariableOverride]
    ended_at: Time | None


class FailedConversation(Conversation):
    status: Literal["failed"]  # pyright: ignore[reportIncompatibleVariableOverride]
    ended_at: Time | None
    failure: str
    failure_code: str


MAX_LINES, MAX_DAYS = 1_000, 366
AnyConversation = Conversation | EndedConversation | FailedConversation
STATUSES = {"COMPLETED": "ended", "CANCELLED": "ended", "FAILED": "failed"}


def list_all(db: Db, call: Call, query: ConversationQuery, body: None) -> Listed:
    rows = select(Session).where(Session.started_ms.is_not(None))
    if query.avatar is not None:
        rows = rows.where((Session.avatar_id == query.avatar) | (Session.preset == query.avatar))
    if query.start_date is not None:
        rows = rows.where(Session.created_ms >= _ms(query.start_date))
    if query.end_date is not None:
        rows = rows.where(Session.created_ms < _ms(query.end_date))
    page = read_page(db, rows, Session.created_ms, cursor=query.cursor, limit=query.limit)
    data = [_head(row) for row in page.rows]
    return Listed(data=data, has_more=page.next_cursor is not None, next_cursor=page.next_cursor)


def read(db: Db, call: Call, query: NoQuery, body: None) -> AnyConversation:
    session = _found(db, call.id)
    values = {
        "id": session.id,
        "name": _name(session),
        "avatar": _whole_avatar(db, call, session),
        "created_at": time_of(session.created_ms),
        "started_at": time_or_none(session.started_ms),
        "duration": duration_s(session),
        "max_duration": session.max_s,
        "tools": [ToolSummary(**_named(tool)) for tool in session.tools],
        "transcript": _transcript(db, session.id),
        "status": STATUSES.get(session.status, "in_progress"),
        "ended_at": time_or_none(session.ended_ms),
        "failure": session.failure or "",
        "failure_code": session.failure_code or "",
    }
    return by_status(AnyConversation, values)


def remove(db: Db, call: Call, query: NoQuery, body: None) -> None:
    if _found(db, call.id).status in LIVE:
        raise ApiError(409, "This conversation has not ended. End its session first.")
    db.execute(delete(Session).where(Session.id == call.id))


def usage(db: Db, call: Call, query: DaysQuery, body: None) -> answers.AvatarUsage:
    """Sessions that were talked in, by the day on which they were created; days without any too."""
    first, last = _ms(query.start_date), _ms(query.end_date)
    if not 0 <= last - first <= MAX_DAYS * 24 * 3600 * 1000:
        raise ApiError(400, f"endDate must be after startDate, by at most {MAX_DAYS} days.")
    found = select(Session).where(
        Session.started_ms.is_not(None), Session.created_ms >= first, Session.created_ms < last
    )
    by_day: dict[date, list[int]] = {day: [] for day in _days(query.start_date, query.end_date)}
    for session in db.scalars(found):
        by_day.setdefault(time_of(session.created_ms).date(), []).append(duration_s(session) or 0)
    number, seconds = sum(map(len, by_day.values())), sum(map(sum, by_day.values()))
    return answers.AvatarUsage(
        total_sessions=number,
        total_seconds=seconds,
        avg_duration_seconds=round(seconds / number) if number else 0,
        by_day=[
            answers.DayUsage(date=day.isoformat(), sessions=len(each), seconds=sum(each))
            for day, each in sorted(by_day.items())
        ],
    )


def _found(db: Db, session_id: str) -> Session:
    session = db.get(Session, session_id)
    if session is None:
        raise not_found("conversation")
    return session


def _name(session: Session) -> str:
    return f"Conversation with {session.avatar_name}"


def _head(session: Session) -> ConversationHead:
    if session.preset is not None:
        avatar = PresetHead(preset_id=session.preset, name=session.avatar_name)
    else:
        avatar = CustomHead(id=session.avatar_id, name=session.avatar_name if session.avatar_id else None)
    return ConversationHead(
        id=session.id,
        name=_name(session),
        avatar=avatar,
        created_at=time_of(session.created_ms),
        duration=duration_s(session),
        has_tools=bool(session.tools),
        status=STATUSES.get(session.status, "in_progress"),  # pyright: ignore[reportArgumentType]
    )


def _whole_avatar(db: Db, call: Call, session: Session) -> Preset | CustomImage:
    if session.preset is not None:
        return Preset(preset_id=session.preset)
    avatar = db.get(Avatar, session.avatar_id) if session.avatar_id else None
    if avatar is None:
        return CustomImage(id=None, name=None, image_url=None)
    return CustomImage(id=avatar.id, name=avatar.name, image_url=call.file_url(avatar.processed_id))


def _transcript(db: Db, session_id: str) -> list[Line]:
    rows = select(Entry).where(Entry.session_id == session_id).order_by(Entry.position).limit(MAX_LINES)
    return [
        Line(
            role=row.role,  # pyright: ignore[reportArgumentType]
            content=row.content,
            timestamp=time_of(row.at_ms),
            tool_calls=row.tool_calls,
            tool_results=row.tool_results,
        )
        for row in db.scalars(rows)
    ]


def _named(tool: dict[str, Any]) -> dict[str, Any]:
    return {name: tool[name] for name in ("type", "name", "description")}


def _ms(time: datetime) -> int:
    """Of a time without a zone: UTC."""
    return round((time if time.tzinfo else time.replace(tzinfo=UTC)).timestamp() * 1000)


def _days(first: datetime, end: datetime) -> list[date]:
    if _ms(end) <= _ms(first):
        return []
    begin, last = time_of(_ms(first)).date(), time_of(_ms(end) - 1).date()
    return [begin + timedelta(days=number) for number in range((last - begin).days + 1)]
