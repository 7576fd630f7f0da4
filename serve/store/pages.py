"""Lists in pages: each page ends with a cursor, after which the next one begins."""

import base64
import binascii
from dataclasses import dataclass
from typing import Generic, TypeVar

from sqlalchemy import Select, and_, false, or_
from sqlalchemy.orm import InstrumentedAttribute, Session

from serve.store.tables import Named

Row = TypeVar("Row", bound=Named)


@dataclass(frozen=True, slots=True)
class Page(Generic[Row]):
    rows: list[Row]
    next_cursor: str | None  # None: this is the last page


def read_page(
    db: Session,
    query: Select[Row],
    by: InstrumentedAttribute[int],
    *,
    cursor: str | None,
    limit: int,
    descending: bool = True,
) -> Page[Row]:
    """Rows of a query in the order of a time, then of their ids. After a cursor that nobody gave out comes nothing."""
    table = by.class_
    if cursor is not None:
        query = query.where(_after(cursor, by, table.id, descending=descending))
    order = [column.desc() if descending else column.asc() for column in (by, table.id)]
    rows = list(db.scalars(query.order_by(*order).limit(limit + 1)))
    if len(rows) <= limit:
        return Page(rows, None)
    last = rows[limit - 1]
    return Page(rows[:limit], _cursor(getattr(last, by.key), last.id))


def _cursor(value: int, row_id: str) -> str:
    return base64.urlsafe_b64encode(f"{value}:{row_id}".encode()).decode()


def _after(cursor: str, by: InstrumentedAttribute[int], row_id: InstrumentedAttribute[str], *, descending: bool):
    try:
        value, _, last = base64.urlsafe_b64decode(cursor.encode()).decode().partition(":")
        number = int(value)
    except (binascii.Error, ValueError):
        return false()
    if descending:
        return or_(by < number, and_(by == number, row_id < last))
    return or_(by > number, and_(by == number, row_id > last))
