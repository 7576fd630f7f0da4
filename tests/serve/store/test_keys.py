"""Keys open by their text, which is not stored."""

import pytest

from serve.store.database import Store
from serve.store.keys import Limits, add_key, find_key, publishable, revoke_key


def test_a_key_is_found_by_its_text_and_no_other(store: Store):
    key = store.do(lambda db: add_key(db, "site", Limits(origins=[])))
    found = store.do(lambda db: find_key(db, key))
    assert found is not None and found.name == "site" and key.startswith("key_") and len(key) == 132
    assert store.do(lambda db: find_key(db, key[:-1])) is None


def test_the_database_file_does_not_hold_the_key(sqlite_url: str):
    store = Store(sqlite_url)
    key = store.do(lambda db: add_key(db, "site", publishable(["https://a.example"])))
    store.close()
    with open(sqlite_url.removeprefix("sqlite:///"), "rb") as file:
        assert key[13:].encode() not in file.read()


def test_a_revoked_key_opens_nothing(store: Store):
    key = store.do(lambda db: add_key(db, "site", Limits(origins=[])))
    found = store.do(lambda db: find_key(db, key))
    assert found is not None
    store.do(lambda db: revoke_key(db, found.id))
    assert store.do(lambda db: find_key(db, key)) is None


@pytest.mark.parametrize("origin", ["https://a.example/", "a.example", "ftp://a.example", "*"])
def test_an_origin_is_a_scheme_and_a_host(origin: str):
    with pytest.raises(ValueError, match=r"must have such as https://example\.org"):
        publishable([origin])


def test_limits_are_at_least_one():
    with pytest.raises(ValueError, match="max_sessions=0 must be at least 1"):
        Limits(origins=[], max_sessions=0)
