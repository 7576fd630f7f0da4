"""What the API is started with, and what happens at the start."""

import asyncio
from pathlib import Path

import pytest

from serve.live.speech.voice_servers import Speech
from serve.runway_api.mount import ApiOptions, mounted
from serve.store.database import Store
from serve.store.keys import find_key, list_keys
from tests.serve.live.server_kit import TIMEOUTS, Kit
from tests.serve.runway_api.api_kit import Films, hum


def started(folder: Path, *, store: bool = True, prints: bool) -> Kit:
    """A server that is started and stopped."""

    async def run() -> Kit:
        kit = Kit(capacity=1, timeouts=TIMEOUTS)
        url = f"sqlite:///{folder}/gwm.sqlite" if store else None
        options = ApiOptions(store=url, public_url=None, retention_days=None)
        async with mounted(kit.api, Speech("piper", hum), options=options, make_film=Films(), prints_first_key=prints):
            pass
        kit.api.uploads.close()
        kit.pool.close()
        return kit

    return asyncio.run(run())


def keys(folder: Path) -> int:
    store = Store(f"sqlite:///{folder}/gwm.sqlite")
    try:
        return len(store.do(list_keys))
    finally:
        store.close()


def test_the_first_start_logs_a_key_that_works_and_the_next_none(tmp_path: Path, caplog: pytest.LogCaptureFixture):
    with caplog.at_level("INFO"):
        started(tmp_path, prints=True)
        started(tmp_path, prints=True)
    (message,) = [record.getMessage() for record in caplog.records if "API key" in record.getMessage()]
    store = Store(f"sqlite:///{tmp_path}/gwm.sqlite")
    assert store.do(lambda db: find_key(db, message.rpartition(" ")[2])) is not None
    store.close()


def test_a_server_that_others_can_reach_logs_no_key(tmp_path: Path):
    started(tmp_path, prints=False)
    assert keys(tmp_path) == 0


def test_without_a_store_there_is_no_api():
    assert not started(Path(), store=False, prints=True).api.app._subapps


@pytest.mark.parametrize(
    ("name", "value", "rule"),
    [
        ("retention_days", 0, "retention_days=0 must be at least 1"),
        ("public_url", "avatars.example.org", "must be such as https://"),
    ],
)
def test_a_value_that_cannot_be_is_refused(name: str, value: object, rule: str):
    given: dict[str, object] = {"store": None, "public_url": None, "retention_days": None}
    with pytest.raises(ValueError, match=rule):
        ApiOptions(**given | {name: value})  # pyright: ignore
