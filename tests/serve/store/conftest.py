"""The store in SQLite, and the same tests in a Postgres server of their own where Debian's is installed."""

import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest

from serve.store.database import Store
from serve.store.tables import new_id

USER = "postgres"  # whom Debian's package makes: the server refuses to run as root


def programs() -> Path | None:
    """The folder of Postgres' programs, newest first; None: it is not installed."""
    found = sorted(Path("/usr/lib/postgresql").glob("*/bin/initdb"), reverse=True)
    return found[0].parent if found and shutil.which("runuser") and os.getuid() == 0 else None


@pytest.fixture(scope="session")
def postgres() -> Iterator[Path]:
    """The folder of the socket of a server that runs."""
    pytest.importorskip("psycopg")
    folder = programs()
    if folder is None:
        pytest.skip("no Postgres, or not root: apt-get install postgresql")
    with TemporaryDirectory(dir="/tmp") as home:  # a socket's path has 107 characters at most
        shutil.chown(home, USER, USER)

        def run(*words: str) -> None:
            subprocess.run(["runuser", "-u", USER, "--", *words], check=True, stdout=subprocess.DEVNULL, cwd=home)

        run(f"{folder}/initdb", "-D", f"{home}/data", "-U", "gwm", "-A", "trust", "--no-sync")
        settings = f"-k {home} -c listen_addresses='' -c fsync=off"
        run(f"{folder}/pg_ctl", "-D", f"{home}/data", "-l", f"{home}/log", "-o", settings, "-w", "-t", "120", "start")
        try:
            yield Path(home)
        finally:
            run(f"{folder}/pg_ctl", "-D", f"{home}/data", "-m", "immediate", "stop")


def new_database(socket: Path) -> str:
    """The URL of an empty one."""
    import psycopg

    name = f"test_{new_id().replace('-', '')}"
    with psycopg.connect(host=str(socket), user="gwm", dbname="postgres", autocommit=True) as connection:
        connection.execute(f"CREATE DATABASE {name}")  # type: ignore[call-overload]
    return f"postgresql+psycopg://gwm@/{name}?host={socket}"


@pytest.fixture
def sqlite_url(tmp_path: Path) -> str:
    return f"sqlite:///{tmp_path}/store/gwm.sqlite"


@pytest.fixture(params=["sqlite", pytest.param("postgres", marks=pytest.mark.slow)])
def url(request: pytest.FixtureRequest) -> str:
    if request.param == "sqlite":
        return request.getfixturevalue("sqlite_url")
    return new_database(request.getfixturevalue("postgres"))


@pytest.fixture
def store(url: str) -> Iterator[Store]:
    opened = Store(url)
    yield opened
    opened.close()
