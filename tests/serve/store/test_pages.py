"""Pages are parts of one list."""

import time

import pytest
from sqlalchemy import insert, select

from serve.store.database import Store
from serve.store.pages import read_page
from serve.store.tables import Document


def rows(number: int) -> list[dict]:
    """Times of which each is another's too."""
    return [
        {"id": f"{index:05}", "name": "n", "content": "c", "created_ms": index // 2, "updated_ms": 0}
        for index in range(number)
    ]


@pytest.mark.parametrize("descending", [True, False])
@pytest.mark.parametrize("limit", [1, 2, 3, 7, 8])
def test_all_pages_together_are_the_sorted_list(store: Store, limit: int, descending: bool):
    store.do(lambda db: db.execute(insert(Document), rows(7)))
    found, cursor = [], None
    while True:
        page = store.do(
            lambda db, cursor=cursor: read_page(
                db, select(Document), Document.created_ms, cursor=cursor, limit=limit, descending=descending
            )
        )
        found += [row.id for row in page.rows]
        cursor = page.next_cursor
        if cursor is None:
            break
    assert found == sorted((row["id"] for row in rows(7)), reverse=descending)


@pytest.mark.parametrize("cursor", ["x", "eA==", "\u2603", ""])
def test_nothing_comes_after_a_cursor_that_nobody_gave_out(store: Store, cursor: str):
    store.do(lambda db: db.execute(insert(Document), rows(2)))
    page = store.do(lambda db: read_page(db, select(Document), Document.created_ms, cursor=cursor, limit=5))
    assert page.rows == [] and page.next_cursor is None


@pytest.mark.parametrize("url", ["sqlite"], indirect=True)  # which says how in its own words
def test_a_page_of_ten_thousand_documents_is_read_by_the_index(store: Store):
    store.do(lambda db: db.execute(insert(Document), rows(10_000)))
    query = select(Document).order_by(Document.created_ms.desc(), Document.id.desc()).limit(50)
    sql = str(query.compile(store.engine, compile_kwargs={"literal_binds": True}))
    with store.engine.connect() as connection:
        plan = str(connection.exec_driver_sql(f"EXPLAIN QUERY PLAN {sql}").all())
    assert "USING INDEX ix_documents_created_ms" in plan
    begin = time.perf_counter()
    store.do(lambda db: read_page(db, select(Document), Document.created_ms, cursor=None, limit=50))
    print(f"{1000 * (time.perf_counter() - begin):.1f} ms")
