"""What is too old goes, with everything that belongs to it, and nothing else."""

from sqlalchemy import select

from serve.store.database import Store
from serve.store.owners import DAY_MS, delete_old
from serve.store.tables import Entry, File, Session, Task, Upload, now_ms

OLD = now_ms() - 8 * DAY_MS


def everything(db) -> None:
    for name, created in (("old", OLD), ("new", now_ms())):
        files = [File(id=f"{name} {kind}", content_type="a", data=b"", public=True) for kind in ("film", "upload")]
        db.add_all(files)
        db.flush()
        session = Session(id=name, created_ms=created, status="COMPLETED", avatar_name="Noa", tools=[], max_s=1)
        upload = Upload(id=name, filename="a", file_id=f"{name} upload", expires_ms=created + DAY_MS)
        task = Task(id=name, created_ms=created, status="SUCCEEDED", request={}, output_id=f"{name} film")
        db.add_all([session, upload, task])
        db.flush()
        db.add(Entry(session_id=name, position=0, role="user", content="hello"))
    db.add(Session(id="live", created_ms=OLD, status="RUNNING", avatar_name="Noa", tools=[], max_s=1))


def left(store: Store) -> list[list[str]]:
    columns = Session.id, Entry.session_id, Task.id, Upload.id, File.id
    return [sorted(store.do(lambda db, column=column: list(db.scalars(select(column))))) for column in columns]


def test_a_week_is_kept(store: Store):
    store.do(everything)
    store.do(lambda db: delete_old(db, retention_days=7))
    assert left(store) == [["live", "new"], ["new"], ["new"], ["new"], ["new film", "new upload"]]


def test_without_a_limit_only_what_expires_goes(store: Store):
    store.do(everything)
    store.do(lambda db: delete_old(db, retention_days=None))
    kept = [["live", "new", "old"], ["new", "old"], ["new", "old"], ["new"], ["new film", "new upload", "old film"]]
    assert left(store) == kept
