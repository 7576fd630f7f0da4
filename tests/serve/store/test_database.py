"""Tables are what the migrations make, survive a restart, and are shared by two processes."""

import subprocess
import sys
import threading
from pathlib import Path

import pytest
from alembic import command
from alembic.autogenerate import compare_metadata
from alembic.config import Config
from alembic.migration import MigrationContext
from sqlalchemy import create_engine, select, text

from serve.store.database import MIGRATIONS, Store
from serve.store.tables import Avatar, Document, Table

ROOT = Path(__file__).parents[3]


def test_the_migrations_make_the_tables_that_the_code_declares(store: Store):
    with store.engine.connect() as connection:
        assert compare_metadata(MigrationContext.configure(connection), Table.metadata) == []


def test_rows_are_there_after_a_restart(store: Store, url: str):
    store.do(lambda db: db.add(Document(name="Hours", content="Nine to five.")))
    store.close()
    again = Store(url)
    assert again.do(lambda db: db.scalars(select(Document.content)).all()) == ["Nine to five."]
    again.close()


def test_a_transaction_that_fails_leaves_nothing(store: Store):
    def fail(db) -> None:
        db.add(Document(name="a", content="b"))
        db.flush()
        raise KeyError

    with pytest.raises(KeyError):
        store.do(fail)
    assert store.do(lambda db: db.scalars(select(Document)).all()) == []


def test_two_stores_on_one_file_lose_no_writes(store: Store, url: str):
    """Each adds to what it reads; with deferred transactions one of two that overlap fails or is lost."""
    other = Store(url)
    store.do(lambda db: db.add(Document(id="1", name="0", content="")))

    def count(one: Store) -> None:
        for _ in range(25):
            one.do(lambda db: setattr(row := db.get_one(Document, "1"), "name", str(int(row.name) + 1)))

    threads = [threading.Thread(target=count, args=(one,)) for one in (store, other)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert store.do(lambda db: db.get_one(Document, "1").name) == "50"
    other.close()


COUNTING = """import sys
from serve.store.database import Store
from serve.store.tables import Document
store = Store(sys.argv[1])
for _ in range(25):
    store.do(lambda db: setattr(row := db.get_one(Document, "1"), "name", str(int(row.name) + 1)))
store.close()"""


def test_two_processes_on_one_store_lose_no_writes(store: Store, url: str):
    store.do(lambda db: db.add(Document(id="1", name="0", content="")))
    processes = [subprocess.Popen([sys.executable, "-c", COUNTING, url], cwd=ROOT) for _ in range(2)]
    assert [process.wait() for process in processes] == [0, 0]
    assert store.do(lambda db: db.get_one(Document, "1").name) == "50"


def test_readers_do_not_wait_for_the_one_who_writes(store: Store):
    with store.engine.begin() as writer:
        writer.execute(text("INSERT INTO documents VALUES ('a', 'b', 1, 'c', 1)"))
        assert store.do(lambda db: db.scalars(select(Document)).all(), writes=False) == []


@pytest.mark.parametrize("url", ["nonsense", "sqlite:////dev/null/store", "postgresql+nothing://u:secret@h/d"])
def test_what_cannot_be_opened_is_refused_without_its_password(url: str):
    with pytest.raises(ValueError, match="must be a database that can be opened") as refused:
        Store(url)
    assert "secret" not in str(refused.value)


def test_avatars_of_the_first_version_have_no_tools(tmp_path: Path):
    url = f"sqlite:///{tmp_path}/first.sqlite"
    config = Config()
    config.set_main_option("script_location", str(MIGRATIONS))
    engine = create_engine(url)
    with engine.begin() as connection:
        config.attributes["connection"] = connection
        command.upgrade(config, "0001")
        values = {
            "id": "a",
            "created_ms": 1,
            "status": "READY",
            "alive_ms": 1,
            "name": "Vera",
            "personality": "Be brief.",
        }
        values |= {"voice": "{}", "image": "", "crops_to_face": True, "updated_ms": 1}
        names = ", ".join(values)
        connection.execute(text(f"INSERT INTO avatars ({names}) VALUES (:{', :'.join(values)})"), values)
    engine.dispose()
    store = Store(url)
    assert store.do(lambda db: db.get_one(Avatar, "a").tools) == []
    store.close()
