"""The command of keys: what it is asked to do, and what it says."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from serve.keys import work
from serve.store.database import Store
from serve.store.keys import Limits, find_key, publishable


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    opened = Store(f"sqlite:///{tmp_path}/gwm.sqlite")
    yield opened
    opened.close()


def said(
    store: Store, *, name: str | None = None, revoke: str | None = None, origins: tuple[str, ...] = ()
) -> list[str]:
    limits = publishable(list(origins)) if origins else Limits(origins=[])
    return store.do(lambda db: list(work(db, name=name, revoke=revoke, limits=limits)))


def test_a_key_that_is_made_is_shown_once_and_works(store: Store):
    first, _ = said(store, name="site", origins=("https://shop.example",))
    key = first.rpartition(" ")[2]
    assert store.do(lambda db: find_key(db, key)) is not None
    (listed,) = said(store)
    assert key not in listed and "https://shop.example: site" in listed and " valid " in listed


def test_a_key_that_is_revoked_works_no_more(store: Store):
    key = said(store, name="backend")[0].rpartition(" ")[2]
    key_id = said(store)[0].partition(" ")[0]
    assert " revoked " in said(store, revoke=key_id)[0]
    assert store.do(lambda db: find_key(db, key)) is None


def test_a_key_that_is_not_there_is_told(store: Store):
    with pytest.raises(ValueError, match="id=nobody must be the id of a key"):
        said(store, revoke="nobody")
