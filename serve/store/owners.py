"""Which server makes what: each gives a sign of life, and what a silent one leaves is taken over or given up.
And what is deleted by its age."""

from collections.abc import Sequence
from typing import TypeVar

from sqlalchemy import delete, or_, select, update
from sqlalchemy.orm import Session as Db

from serve.store.tables import Avatar, File, Meeting, Session, Task, Upload, Voice, Work, now_ms

SILENT_MS = 30_000
LIVE = ("NOT_READY", "READY", "RUNNING")  # sessions that somebody waits for or talks in
UNFINISHED = {
    Avatar: ("PROCESSING",),
    Voice: ("PROCESSING",),
    Task: ("PENDING", "RUNNING"),
    Meeting: ("PENDING", "JOINING", "RUNNING", "LEAVING"),
}
LOST = "The server that held this session has stopped."
AnyWork = TypeVar("AnyWork", Avatar, Voice, Task, Meeting)


def claim(db: Db, table: type[AnyWork], owner: str) -> AnyWork | None:
    """The oldest unfinished work that nobody does, which is `owner`'s from now on."""
    free = or_(table.owner.is_(None), table.alive_ms < now_ms() - SILENT_MS)
    query = select(table).where(table.status.in_(UNFINISHED[table]), free).order_by(table.created_ms).limit(1)
    row = db.scalar(query.with_for_update(skip_locked=True))
    if row is not None:
        row.owner, row.alive_ms = owner, now_ms()
    return row


def stay_alive(db: Db, owner: str) -> None:
    """A sign of life for everything that `owner` has begun."""
    tables: Sequence[tuple[type[Work], tuple[str, ...]]] = [*UNFINISHED.items(), (Session, LIVE)]
    for table, statuses in tables:
        mine = update(table).where(table.owner == owner, table.status.in_(statuses))
        db.execute(mine.values(alive_ms=now_ms()))


def give_up_lost_sessions(db: Db) -> int:
    """Sessions of silent servers end; how many there were."""
    lost = update(Session).where(Session.status.in_(LIVE), Session.alive_ms < now_ms() - SILENT_MS)
    ended = lost.values(status="FAILED", failure=LOST, failure_code="SERVER.STOPPED", ended_ms=now_ms())
    return db.execute(ended.values(session_key=None, room={}, visitor=None)).rowcount  # pyright: ignore[reportAttributeAccessIssue]


DAY_MS = 24 * 3600 * 1000


def delete_old(db: Db, *, retention_days: int | None) -> None:
    """Files and uploads past their time; conversations, meetings and films that ended more than `retention_days` ago.

    retention_days: None keeps conversations and films until somebody deletes them.
    """
    now = now_ms()
    if retention_days is not None:
        before = now - retention_days * DAY_MS
        db.execute(delete(Session).where(Session.created_ms < before, Session.status.not_in(LIVE)))
        db.execute(delete(Meeting).where(Meeting.ended_ms < before))
        done = (Task.created_ms < before) & Task.status.not_in(UNFINISHED[Task])
        outputs = list(db.scalars(select(Task.output_id).where(done)))
        db.execute(delete(Task).where(done))
        db.execute(delete(File).where(File.id.in_(outputs)))
    old = select(Upload.file_id).where(Upload.expires_ms < now, Upload.file_id.is_not(None))
    db.execute(delete(File).where(or_(File.expires_ms < now, File.id.in_(old))))
    db.execute(delete(Upload).where(Upload.expires_ms < now))
