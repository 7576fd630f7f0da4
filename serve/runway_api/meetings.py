"""Meetings: a bot joins one and opens our page, which is its camera and its voice. `meeting_bots` sends it."""

import secrets
from urllib.parse import urlsplit

from sqlalchemy import func, select
from sqlalchemy.orm import Session as Db

from serve.runway_api import answers, sessions
from serve.runway_api.answers import Created, Listed, time_of, time_or_none
from serve.runway_api.call import ApiError, Call, not_found
from serve.runway_api.requests import JoinRequest, MeetingRequest, NoQuery, PageQuery, SessionRequest
from serve.store.keys import digest
from serve.store.owners import LIVE, UNFINISHED
from serve.store.pages import read_page
from serve.store.tables import Meeting, Session, now_ms

PAGE = "/meet"
OPEN = UNFINISHED[Meeting]
OPENS_WITHIN_MS = 30 * 60_000  # as long as somebody may leave the bot in a waiting room
MAX_JOINS = 20  # loads of one meeting's page
SECURE_HOSTS = ("localhost", "127.0.0.1")  # to whose pages browsers give a microphone without TLS
REPLACED = "The page of this meeting was opened elsewhere, or the conversation is over."


def create(db: Db, call: Call, query: NoQuery, body: MeetingRequest) -> Created:
    """Send a bot into a meeting; the character speaks there as soon as the bot's browser has opened its page."""
    if body.provider not in call.desk.bots:
        raise ApiError(400, f"provider {body.provider} has no key on this server: see meetings: in configs/serve.yaml.")
    address = urlsplit(call.base_url)
    if address.scheme != "https" and address.hostname not in SECURE_HOSTS:
        raise ApiError(400, f"Bots need a page from https, not {call.base_url}. The operator sets public_url=.")
    wanted = body.session()
    sessions.check_avatar(db, call, wanted.avatar)
    number = db.scalar(select(func.count()).select_from(Meeting).where(Meeting.status.in_(OPEN))) or 0
    if number >= call.desk.max_meetings:
        raise ApiError(429, f"{number} meetings are open, may be at most {call.desk.max_meetings}. End one first.")
    meeting = Meeting(
        provider=body.provider,
        url=body.meeting_url,
        bot_name=body.bot_name,
        request=wanted.model_dump(mode="json", by_alias=True, exclude_unset=True),
        base_url=call.base_url,
        open_until_ms=now_ms() + OPENS_WITHIN_MS,
        status="PENDING",
        owner=call.desk.owner,
    )
    db.add(meeting)
    db.flush()
    return Created(id=meeting.id)


def read(db: Db, call: Call, query: NoQuery, body: None) -> answers.Meeting:
    return _shown(_found(db, call.id))


def list_all(db: Db, call: Call, query: PageQuery, body: None) -> Listed:
    page = read_page(db, select(Meeting), Meeting.created_ms, cursor=query.cursor, limit=query.limit)
    data = [_shown(row) for row in page.rows]
    return Listed(data=data, has_more=page.next_cursor is not None, next_cursor=page.next_cursor)


def leave(db: Db, call: Call, query: NoQuery, body: None) -> None:
    """End the conversation and call the bot back; a meeting that has ended stays as it is."""
    meeting = _found(db, call.id)
    if meeting.status not in OPEN:
        return
    meeting.status, meeting.token_sha256 = "LEAVING", None
    _end_session(db, meeting)


def join(db: Db, call: Call, query: NoQuery, body: JoinRequest) -> answers.MeetingRoom:
    """What the bot's page opens its conversation with; asked again until there is a place.

    Raises:
        ApiError: the key is not this meeting's, or it is over, or the page was loaded too often.
    """
    meeting = db.get(Meeting, call.id, with_for_update=True)
    token = meeting.token_sha256 if meeting is not None else None
    if meeting is None or token is None or not secrets.compare_digest(token, digest(call.bearer)):
        raise ApiError(401, "The meeting is over, or the key of its page is wrong.")
    if body.fresh:
        _begin(db, call, meeting)
    session = db.get(Session, meeting.session_id) if meeting.session_id else None
    if session is not None and session.status == "NOT_READY":
        return answers.MeetingRoom(status="NOT_READY")
    if session is None or session.status != "READY" or "token" not in session.room:
        return answers.MeetingRoom(status="ENDED", failure=(session and session.failure) or REPLACED)
    room = sessions.take_room(call, session)
    return answers.MeetingRoom(status="READY", room=room)


def _begin(db: Db, call: Call, meeting: Meeting) -> None:
    """A session for a page that was just loaded; the one before is over."""
    if meeting.joins >= MAX_JOINS:
        raise ApiError(429, f"The page of this meeting was opened {MAX_JOINS} times already.")
    _end_session(db, meeting)
    made = sessions.create(db, call, NoQuery(), SessionRequest.model_validate(meeting.request))
    meeting.session_id, meeting.joins = made.id, meeting.joins + 1
    meeting.status = "RUNNING"


def _end_session(db: Db, meeting: Meeting) -> None:
    session = db.get(Session, meeting.session_id) if meeting.session_id else None
    if session is not None and session.status in LIVE:
        sessions.end(session, status="CANCELLED")


def _found(db: Db, meeting_id: str) -> Meeting:
    meeting = db.get(Meeting, meeting_id, with_for_update=True)
    if meeting is None:
        raise not_found("meeting")
    return meeting


def _shown(row: Meeting) -> answers.Meeting:
    return answers.Meeting(
        id=row.id,
        status=row.status,  # pyright: ignore[reportArgumentType]
        provider=row.provider,
        meeting_url=row.url,
        bot_name=row.bot_name,
        bot_id=row.bot_id,
        session_id=row.session_id,
        created_at=time_of(row.created_ms),
        ended_at=time_or_none(row.ended_ms),
        failure=row.failure,
        failure_code=row.failure_code,
    )
