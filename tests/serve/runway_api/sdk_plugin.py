"""For the SDK's own tests, which are written for a server that has one object of every kind under one id.

Loaded by pytest in their process: before each test that object is there again, also after a test that deletes it.
"""

import os
from collections.abc import Iterator

import pytest
from sqlalchemy import delete

from serve.store.database import Store
from serve.store.tables import Avatar, Document, Session, Task, Voice

ID = "182bd5e5-6e1a-4fe4-a799-aa6d9a6ab26e"
VOICE = {"type": "runway-live-preset", "preset_id": "adrian"}


def put_back(db) -> None:
    for table in (Avatar, Document, Voice, Session, Task):
        db.execute(delete(table).where(table.id == ID))
    avatar = Avatar(
        id=ID, name="x", personality="p", voice=VOICE, image="", crops_to_face=True, status="READY", links=[]
    )
    voice = Voice(id=ID, name="x", source={}, wish={"espeak": "en-us"}, status="READY")
    session = Session(
        id=ID, avatar_name="x", avatar_id=ID, status="COMPLETED", tools=[], max_s=300, started_ms=0, ended_ms=1
    )
    db.add_all(
        [avatar, voice, Document(id=ID, name="x", content="c"), Task(id=ID, request={}, status="PENDING", owner=ID)]
    )
    db.flush()
    db.add(session)


@pytest.fixture(scope="session")
def store() -> Iterator[Store]:
    opened = Store(os.environ["STORE"])
    yield opened
    opened.close()


@pytest.fixture(autouse=True)
def _objects(store: Store) -> None:
    store.do(put_back)
