"""What is deleted by its age."""

from sqlalchemy import delete, or_, select
from sqlalchemy.orm import Session as Db

from serve.store.owners import LIVE, UNFINISHED
from serve.store.tables import File, Session, Task, Upload, now_ms

DAY_MS = 24 * 3600 * 1000


def delete_old(db: Db, *, retention_days: int | None) -> None:
    """Files and uploads past their time, and conversations and films that ended more than `retention_days` ago.

    retention_days: None keeps conversations and films until somebody deletes them.
    """
    now = now_ms()
    if retention_days is not None:
        before = now - retention_days * DAY_MS
        db.execute(delete(Session).where(Session.created_ms < before, Session.status.not_in(LIVE)))
        done = (Task.created_ms < before) & Task.status.not_in(UNFINISHED[Task])
        outputs = list(db.scalars(select(Task.output_id).where(done)))
        db.execute(delete(Task).where(done))
        db.execute(delete(File).where(File.id.in_(outputs)))
    old = select(Upload.file_id).where(Upload.expires_ms < now, Upload.file_id.is_not(None))
    db.execute(delete(File).where(or_(File.expires_ms < now, File.id.in_(old))))
    db.execute(delete(Upload).where(Upload.expires_ms < now))
