"""Files that are never in memory as a whole: stored and read in pieces, each in a transaction of its own."""

import asyncio
from collections.abc import AsyncIterable, AsyncIterator
from pathlib import Path

from sqlalchemy import delete, func, select
from sqlalchemy.orm import Session as Db

from serve.store.database import Store
from serve.store.tables import File, Piece, now_ms

PIECE_BYTES = 1_000_000  # of every piece but the last; stores hold such pieces, and ranges count on them
UNFINISHED_MS = 24 * 3600 * 1000  # after which what a killed server has begun is deleted


async def store_file(
    store: Store, parts: AsyncIterable[bytes], *, content_type: str, public: bool, expires_ms: int | None
) -> str:
    """Store what comes; the file's id. Nothing is left where the parts end with an error."""

    def begin(db: Db) -> str:
        until = now_ms() + UNFINISHED_MS
        db.add(file := File(content_type=content_type, data=b"", public=False, expires_ms=until))
        db.flush()
        return file.id

    def end(db: Db) -> None:
        file = db.get_one(File, file_id)
        file.public, file.expires_ms = public, expires_ms

    file_id = await store.run(begin)
    try:
        position = 0
        async for piece in _of_one_size(parts):
            row = Piece(file_id=file_id, position=position, data=piece)
            await store.run(lambda db, row=row: db.add(row))
            position += 1
        await store.run(end)
    except BaseException:
        await asyncio.shield(store.run(lambda db: db.execute(delete(File).where(File.id == file_id))))
        raise
    return file_id


async def _of_one_size(parts: AsyncIterable[bytes]) -> AsyncIterator[bytes]:
    waiting = bytearray()
    async for part in parts:
        waiting += part
        while len(waiting) >= PIECE_BYTES:
            yield bytes(waiting[:PIECE_BYTES])
            del waiting[:PIECE_BYTES]
    if waiting:
        yield bytes(waiting)


async def parts_of(path: Path) -> AsyncIterator[bytes]:
    """A file of this machine, for `store_file`."""
    with path.open("rb") as file:
        while part := file.read(PIECE_BYTES):
            yield part


def file_bytes(db: Db, file_id: str) -> int:
    """How large a stored file is."""
    pieces = select(func.coalesce(func.sum(func.length(Piece.data)), 0)).where(Piece.file_id == file_id)
    whole = select(func.length(File.data)).where(File.id == file_id)
    return (db.scalar(whole) or 0) + (db.scalar(pieces) or 0)


async def read_file(store: Store, file_id: str, *, start: int = 0, stop: int | None = None) -> AsyncIterator[bytes]:
    """Bytes `start` to `stop` of a stored file, in its pieces; it ends early where it is deleted meanwhile."""
    if whole := await store.run(lambda db: db.scalar(select(File.data).where(File.id == file_id)), writes=False):
        yield whole[start:stop]
        return
    begin = start - start % PIECE_BYTES
    while stop is None or begin < stop:
        where = (Piece.file_id == file_id) & (Piece.position == begin // PIECE_BYTES)
        piece = await store.run(lambda db, where=where: db.scalar(select(Piece.data).where(where)), writes=False)
        if piece is None:
            return
        yield piece[max(start - begin, 0) : None if stop is None else stop - begin]
        begin += PIECE_BYTES
