"""Realtime sessions as clients see them; `rooms` does what they wait for."""

import secrets
from typing import Any

from sqlalchemy import func, select
from sqlalchemy.orm import Session as Db

from serve.runway_api import answers
from serve.runway_api.answers import Created, by_status, time_of
from serve.runway_api.avatars import found as found_avatar
from serve.runway_api.call import ApiError, Call, not_found
from serve.runway_api.presets import character_of
from serve.runway_api.requests import AvatarChoice, NoQuery, PresetAvatar, SessionRequest
from serve.runway_api.session_queue import max_waiting
from serve.store.keys import digest
from serve.store.owners import LIVE
from serve.store.tables import ApiKey, Session, now_ms

AnySession = (
    answers.WaitingSession
    | answers.ReadySession
    | answers.PlainSession
    | answers.CompletedSession
    | answers.FailedSession
)


def create(db: Db, call: Call, query: NoQuery, body: SessionRequest) -> Created:
    max_s = _max_s(call, body)
    _check_key(db, call, body, max_s)
    if _count(db, Session.status == "NOT_READY") >= (limit := max_waiting(call.places)):
        raise ApiError(429, f"{limit} sessions wait for a place.", retry_after_s=30)
    session = Session(
        **check_avatar(db, call, body.avatar),
        status="NOT_READY",
        owner=call.desk.owner,
        key_id=call.key.id if call.key else None,
        personality=body.personality,
        start_script=body.start_script,
        tools=_tools(db, body),
        vision=body.vision,
        integration=body.integration.type if body.integration else "livekit" if body.livekit else None,
        max_s=max_s,
        visitor=visitor_of(call),
        origin=call.origin if call.key and call.key.origins else None,
    )
    db.add(session)
    db.flush()
    return Created(id=session.id)


def read(db: Db, call: Call, query: NoQuery, body: None) -> AnySession:
    session = found(db, call)
    values = {
        "id": session.id,
        "created_at": time_of(session.created_ms),
        "status": session.status,
        "queued": session.queued,
        "expires_at": time_of(session.expires_ms or 0),
        "session_key": session.session_key or "",
        "duration": duration_s(session) or 0,
        "failure": session.failure or "",
        "failure_code": session.failure_code or "",
    }
    return by_status(AnySession, values)


def cancel(db: Db, call: Call, query: NoQuery, body: None) -> None:
    """End it; one that has ended stays as it is."""
    session = found(db, call)
    if session.status in LIVE:
        end(session, status="CANCELLED")


def consume(db: Db, call: Call, query: NoQuery, body: None) -> answers.Room:
    """What opens the conversation, for whoever has the session's key, once.

    Raises:
        ApiError: the key is not this session's, was used before, or came too late.
    """
    session = db.get(Session, call.id, with_for_update=True)
    if session is None:
        raise not_found("session")
    right = session.session_key is not None and secrets.compare_digest(session.session_key, call.bearer)
    if not right or session.status != "READY" or (session.expires_ms or 0) < now_ms():
        raise ApiError(401, "The session key is wrong, was used before, or has expired. Create a new session.")
    return take_room(call, session)


def take_room(call: Call, session: Session) -> answers.Room:
    """What opens a session that is READY; nobody has it after this."""
    room = answers.Room(**{"url": call.base_url} | session.room)
    session.session_key, session.room = None, without_token(session.room)
    return room


def without_token(room: dict[str, Any]) -> dict[str, Any]:
    """What is kept of a room that nobody may take any more: in a fleet where it is, without the token."""
    return {name: room[name] for name in ("url", "room_name")} if "url" in room else {}


def connect_backend(db: Db, call: Call, query: NoQuery, body: None) -> answers.Room:
    """What a program joins the room with that answers calls of `backend_rpc` tools.

    Raises:
        ApiError: the session is not open on this server.
    """
    session = found(db, call)
    room = call.desk.backend_room(session) if session.status in ("READY", "RUNNING") else None
    if room is None:
        raise not_found("session that is READY or RUNNING on this server")
    return answers.Room(**{"url": call.base_url} | room)


def found(db: Db, call: Call) -> Session:
    """A publishable key is on a page, in the hands of all its visitors: it sees sessions of its own alone."""
    session = db.get(Session, call.id, with_for_update=True)
    foreign = call.key is not None and call.key.origins and session is not None and session.key_id != call.key.id
    if session is None or foreign:
        raise not_found("session")
    return session


def end(session: Session, *, status: str, failure: str | None = None, failure_code: str | None = None) -> None:
    session.status, session.failure, session.failure_code = status, failure, failure_code
    session.session_key, session.room, session.ended_ms = None, {}, now_ms()
    session.visitor = None


def duration_s(session: Session) -> int | None:
    """From the first connection to the end, or until now."""
    if session.started_ms is None:
        return None
    return max(0, (session.ended_ms or now_ms()) - session.started_ms) // 1000


def _max_s(call: Call, body: SessionRequest) -> int:
    """As long as is asked for; without a wish, no longer than the key allows."""
    allowed = call.key.max_session_s if call.key else None
    asked = "max_duration" in body.model_fields_set
    return body.max_duration if asked or allowed is None else min(body.max_duration, allowed)


def _tools(db: Db, body: SessionRequest) -> list[dict[str, Any]]:
    """Those that are asked for; a session that names none, not even an empty list, has its avatar's."""
    if "tools" in body.model_fields_set or isinstance(body.avatar, PresetAvatar):
        return [tool.model_dump() for tool in body.tools]
    return found_avatar(db, body.avatar.avatar_id).tools


def check_avatar(db: Db, call: Call, wish: AvatarChoice) -> dict[str, str]:
    """Whom a session is with, as it is stored.

    Raises:
        ApiError: there is no such avatar.
    """
    if isinstance(wish, PresetAvatar):
        preset = wish.preset_id
        key = character_of(preset, list(call.desk.characters))
        if key is None:
            raise ApiError(404, f"There is no preset avatar {preset}.")
        return {"preset": preset, "avatar_name": call.desk.characters[key]}
    avatar = found_avatar(db, wish.avatar_id)
    return {"avatar_id": avatar.id, "avatar_name": avatar.name}


def _check_key(db: Db, call: Call, body: SessionRequest, max_s: int) -> None:
    """What a page may ask for: an avatar as its owner made it, for as long and as often as the key allows."""
    key = call.key
    if key is None:
        return
    if key.origins and (body.personality or body.start_script or body.tools or body.integration or body.livekit):
        raise ApiError(403, "With a publishable key an avatar is used as it is. Use a secret key on a server.")
    if key.max_session_s is not None and max_s > key.max_session_s:
        raise ApiError(403, f"maxDuration must be at most {key.max_session_s} with this key.")
    live = Session.status.in_(LIVE) & (Session.key_id == key.id)
    _check_visitor(db, call, key, live)
    if key.max_sessions is not None and _count(db, live) >= key.max_sessions:
        raise ApiError(429, f"This key has {key.max_sessions} sessions already. End one first.", retry_after_s=10)


def visitor_of(call: Call) -> str | None:
    """Whom the limit of one visitor counts, without an address in the store; None: it is no page that asks."""
    if call.key is None or not call.key.origins:
        return None
    return digest(f"{call.key.id} {call.visitor}")


def _check_visitor(db: Db, call: Call, key: ApiKey, live) -> None:
    """What one visitor, and one page, may take of the sessions of a key. A page that is loaded again has its session
    that nobody has joined yet replaced."""
    visitor = visitor_of(call)
    if visitor is not None and key.sessions_per_visitor is not None:
        mine = list(db.scalars(select(Session).where(live, Session.visitor == visitor).order_by(Session.created_ms)))
        unused = [session for session in mine if session.status != "RUNNING"]
        for session in unused[: max(0, len(mine) - key.sessions_per_visitor + 1)]:
            end(session, status="CANCELLED")
        db.flush()
        if len(mine) - len(unused) >= key.sessions_per_visitor:
            message = f"You have {key.sessions_per_visitor} sessions on this page already. End one first."
            raise ApiError(429, message, retry_after_s=10)
    if key.origins and key.sessions_per_origin is not None:
        if _count(db, live & (Session.origin == call.origin)) >= key.sessions_per_origin:
            message = f"This page has {key.sessions_per_origin} sessions already. Try again when one has ended."
            raise ApiError(429, message, retry_after_s=10)


def _count(db: Db, which) -> int:
    return db.scalar(select(func.count()).select_from(Session).where(which)) or 0
