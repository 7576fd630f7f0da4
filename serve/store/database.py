"""The database: SQLite in a file unless a URL names another, brought to the newest tables when it is opened."""

import asyncio
import logging
import sqlite3
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TypeVar

from alembic import command
from alembic.config import Config
from sqlalchemy import URL, Connection, Engine, create_engine, event
from sqlalchemy.engine import make_url
from sqlalchemy.exc import ArgumentError, OperationalError
from sqlalchemy.orm import Session

MIGRATIONS = Path(__file__).parent / "migrations"
THREADS = 4
BUSY_S = 10.0  # for another process that writes
WRITERS = 7283614  # name of the lock that writers take in Postgres
Result = TypeVar("Result")

logging.getLogger("alembic").setLevel(logging.WARNING)  # it tells at every start that nothing is to be done


class Store:
    """Opens the database and runs functions on it, each in a transaction of its own.

    Raises:
        ValueError: the URL is none, or nothing can be opened there.
    """

    def __init__(self, url: str) -> None:
        try:
            self.engine = _engine(url)
            migrate(self.engine)
        except (ArgumentError, OperationalError, ModuleNotFoundError, OSError) as error:
            raise ValueError(
                f"store={_shown(url)} must be a database that can be opened ({str(error).splitlines()[0]}). "
                "Use such as sqlite:///store/gwm.sqlite, or postgresql+psycopg://user@host/name."
            ) from error
        self._reading = self.engine.execution_options(reading=True)
        self._pool = ThreadPoolExecutor(THREADS, thread_name_prefix="store")

    async def run(self, function: Callable[[Session], Result], *, writes: bool = True) -> Result:
        """As `do`, in a thread: the loop carries sound."""
        return await asyncio.get_running_loop().run_in_executor(self._pool, lambda: self.do(function, writes=writes))

    def do(self, function: Callable[[Session], Result], *, writes: bool = True) -> Result:
        """Call it with a session whose changes are kept if it returns, and dropped if it raises.

        writes: False where nothing is changed: readers do not wait for each other.
        """
        with Session(self.engine if writes else self._reading, expire_on_commit=False) as session, session.begin():
            return function(session)

    def close(self) -> None:
        self._pool.shutdown()
        self.engine.dispose()


def migrate(engine: Engine) -> None:
    """Bring the tables to their newest form; a server that starts meanwhile waits."""
    config = Config()
    config.set_main_option("script_location", str(MIGRATIONS))
    with engine.begin() as connection:
        config.attributes["connection"] = connection
        command.upgrade(config, "head")


def _engine(url: str) -> Engine:
    """Transactions that write come one after the other: what one has read is still so when it writes."""
    parsed = make_url(url)
    if parsed.get_backend_name() == "sqlite":
        return _sqlite(parsed)
    engine = create_engine(parsed, pool_pre_ping=True)

    @event.listens_for(engine, "begin")
    def begin(connection: Connection) -> None:
        if engine.dialect.name == "postgresql" and not _reads(connection):
            connection.exec_driver_sql(f"SELECT pg_advisory_xact_lock({WRITERS})")

    return engine


def _sqlite(url: URL) -> Engine:
    if url.database:
        Path(url.database).parent.mkdir(parents=True, exist_ok=True)
    engine = create_engine(url, connect_args={"timeout": BUSY_S})

    @event.listens_for(engine, "connect")
    def prepare(connection: sqlite3.Connection, record: object) -> None:
        connection.isolation_level = None  # SQLAlchemy begins transactions, see below
        connection.execute("PRAGMA journal_mode=WAL")  # readers do not wait for the one who writes
        connection.execute("PRAGMA synchronous=NORMAL")
        connection.execute("PRAGMA foreign_keys=ON")
        connection.execute("PRAGMA secure_delete=ON")  # what is deleted is overwritten

    @event.listens_for(engine, "begin")
    def begin(connection: Connection) -> None:
        connection.exec_driver_sql("BEGIN" if _reads(connection) else "BEGIN IMMEDIATE")

    return engine


def _reads(connection: Connection) -> bool:
    return bool(connection.get_execution_options().get("reading"))


def _shown(url: str) -> str:
    try:
        return make_url(url).render_as_string(hide_password=True)
    except ArgumentError:
        return url
