"""Work has one owner at a time, and a silent owner has none."""

from sqlalchemy import select

from serve.store.database import Store
from serve.store.owners import LOST, SILENT_MS, claim, give_up_lost_sessions, stay_alive
from serve.store.tables import Session, Task, now_ms


def task(**values) -> Task:
    return Task(**{"status": "PENDING", "request": {}} | values)


def session(**values) -> Session:
    return Session(**{"status": "RUNNING", "avatar_name": "Noa", "tools": [], "max_s": 300, "owner": "a"} | values)


def test_each_task_goes_to_one_server_the_oldest_first(store: Store):
    store.do(lambda db: db.add_all([task(id="new", created_ms=2), task(id="old", created_ms=1)]))
    claimed = [store.do(lambda db, owner=owner: claim(db, Task, owner)) for owner in "abc"]
    assert [one and (one.id, one.owner) for one in claimed] == [("old", "a"), ("new", "b"), None]


def test_what_a_silent_server_has_begun_is_taken_over(store: Store):
    silent = now_ms() - SILENT_MS - 1
    store.do(lambda db: db.add(task(id="lost", status="RUNNING", owner="a", alive_ms=silent)))
    taken = store.do(lambda db: claim(db, Task, "b"))
    assert taken is not None and taken.owner == "b"


def test_sessions_of_a_silent_server_fail_and_those_of_others_go_on(store: Store):
    silent = now_ms() - SILENT_MS - 1
    ended = session(id="ended", status="COMPLETED", alive_ms=silent)
    store.do(lambda db: db.add_all([session(id="lost", alive_ms=silent), session(id="other", owner="b"), ended]))
    assert store.do(give_up_lost_sessions) == 1
    found = {one.id: (one.status, one.failure) for one in store.do(lambda db: db.scalars(select(Session)).all())}
    assert found == {"lost": ("FAILED", LOST), "other": ("RUNNING", None), "ended": ("COMPLETED", None)}


def test_a_sign_of_life_keeps_them(store: Store):
    silent = now_ms() - SILENT_MS - 1
    store.do(lambda db: db.add_all([session(alive_ms=silent), task(owner="a", alive_ms=silent)]))
    store.do(lambda db: stay_alive(db, "a"))
    assert store.do(give_up_lost_sessions) == 0 and store.do(lambda db: claim(db, Task, "b")) is None
