"""An upload is sent once, to a place that was given out, and used by its name."""

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import aiohttp
import numpy as np
import pytest
from sqlalchemy import func, select
from sqlalchemy.orm import Session as Db

from serve.runway_api import rest, uploads
from serve.runway_api.media import read_source, save_source
from serve.store.files import read_file, store_file
from serve.store.tables import File, Piece
from tests.serve.runway_api.api_kit import AVATAR, Served, picture, served


async def send(one: Served, begun: dict, data: bytes, **fields: str) -> int:
    form = aiohttp.FormData({**begun["fields"], **fields})
    form.add_field("file", data, filename="me.jpg")
    async with one.http.session.post(begun["uploadUrl"], data=form) as answer:
        return answer.status


async def begin(one: Served) -> dict:
    return await one.ask("POST", "/uploads", {"filename": "../../me.jpg", "type": "ephemeral"})


def test_an_uploaded_picture_becomes_an_avatar(tmp_path: Path):
    async def script(one: Served) -> None:
        begun = await begin(one)
        assert await send(one, begun, picture()) == 204
        made = await one.ask("POST", "/avatars", AVATAR | {"referenceImage": begun["runwayUri"]})
        await one.until(f"/avatars/{made['id']}", "READY")

    served(script, tmp_path)


def test_a_place_is_used_once_and_with_its_own_secret(tmp_path: Path):
    async def script(one: Served) -> None:
        begun, other = await begin(one), await begin(one)
        assert await send(one, begun | {"fields": other["fields"]}, b"x") == 403
        assert await send(one, begun | {"fields": {}}, b"x") == 403
        assert await send(one, begun, b"x") == 204
        assert await send(one, begun, b"y") == 403

    served(script, tmp_path)


def test_an_upload_cannot_be_read_as_a_file(tmp_path: Path):
    """Its bytes are anybody's: as a page of this server they could do what its own pages can."""

    async def script(one: Served) -> None:
        begun = await begin(one)
        assert await send(one, begun, b"<script>") == 204
        file_id = one.store.do(lambda db: db.scalar(select(File.id)))
        assert file_id is not None
        await one.ask("GET", f"/files/{file_id}", status=404)

    served(script, tmp_path)


def files(one: Served) -> tuple[int, int]:
    """How many files and pieces of files are stored."""
    return one.store.do(
        lambda db: (db.scalar(select(func.count(File.id))) or 0, db.scalar(select(func.count(Piece.position))) or 0)
    )


def test_a_large_upload_is_refused_and_nothing_is_left_of_it(tmp_path: Path):
    async def script(one: Served) -> None:
        assert await send(one, await begin(one), bytes(2_500_001)) == 413
        assert files(one) == (0, 0)
        assert await send(one, await begin(one), bytes(2_500_000)) == 204
        assert files(one) == (1, 3)

    served(script, tmp_path, upload_mb=2.5)


def test_a_file_is_not_received_before_its_secret_is_known(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Else whoever knows an address could fill the disk."""

    async def never(*_: object, **__: object) -> str:
        raise AssertionError("stored")

    monkeypatch.setattr(uploads, "store_file", never)

    async def script(one: Served) -> None:
        begun = await begin(one)
        assert await send(one, begun | {"fields": {"key": "x"}}, bytes(100_000)) == 403

    served(script, tmp_path)


def test_a_slow_file_has_time_once_its_secret_is_known_and_no_stranger_has_as_much(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    async def script(one: Served) -> None:
        begun = await begin(one)
        field, secret = "--b\r\nContent-Disposition: form-data; name=", begun["fields"]["key"]
        form = f'{field}"key"\r\n\r\n{secret}\r\n{field}"file"; filename="a"\r\n\r\n'
        head = form.encode() + bytes(1_000)  # of the file, as a form is read some bytes ahead

        async def paused(at: int, given_s: float) -> int:
            """How a file is answered that pauses for longer than is given until its secret is known."""
            monkeypatch.setattr(rest, "UPLOAD_S", given_s)

            async def body() -> AsyncIterator[bytes]:
                yield head[:at]
                await asyncio.sleep(given_s + 1.0)
                yield head[at:] + b"\r\n--b--\r\n"

            kind = {"Content-Type": "multipart/form-data; boundary=b"}
            async with one.http.session.post(begun["uploadUrl"], data=body(), headers=kind) as answer:
                return answer.status

        assert await paused(60, 0.5) == 408
        assert await paused(len(head), 4.0) == 204  # this long, as the store may be slow to say whose secret it is
        assert files(one) == (1, 1)

    served(script, tmp_path)


def test_a_file_in_pieces_is_read_as_it_was_sent(tmp_path: Path):
    data = np.random.default_rng(0).bytes(2_345_678)

    async def script(one: Served) -> None:
        begun = await begin(one)
        assert await send(one, begun, data) == 204
        assert await read_source(one.store, begun["runwayUri"], max_bytes=3_000_000) == data
        with pytest.raises(ValueError, match=r"has 2\.3 MB, must have at most 2 MB"):
            await read_source(one.store, begun["runwayUri"], max_bytes=2_000_000)
        await save_source(one.store, begun["runwayUri"], tmp_path / "copy", max_bytes=3_000_000)
        assert (tmp_path / "copy").read_bytes() == data

    served(script, tmp_path)


def test_a_file_is_fetched_whole_or_by_a_range(tmp_path: Path):
    """One in pieces, as films are, and one in a row, as pictures are."""
    data = np.random.default_rng(0).bytes(2_345_678)

    async def script(one: Served) -> None:
        async def sent() -> AsyncIterator[bytes]:
            yield data

        def whole(db: Db) -> str:
            db.add(file := File(content_type="video/mp4", data=data, public=True))
            db.flush()
            return file.id

        stored = await store_file(one.store, sent(), content_type="video/mp4", public=True, expires_ms=None)
        for file_id in (stored, one.store.do(whole)):
            for part, start, stop in (
                ("bytes=0-1", 0, 2),
                ("bytes=999999-2000000", 999_999, 2_000_001),
                ("bytes=1000000-1999999", 1_000_000, 2_000_000),
                ("bytes=2345670-", 2_345_670, len(data)),
                ("bytes=2345670-9999999", 2_345_670, len(data)),
                ("bytes=-5", len(data) - 5, len(data)),
            ):
                async with one.http.get(f"/v1/files/{file_id}", headers={"Range": part}) as answer:
                    assert await answer.read() == data[start:stop]  # a client reads no more than was announced
                    pieces = [piece async for piece in read_file(one.store, file_id, start=start, stop=stop)]
                    assert b"".join(pieces) == data[start:stop] and all(pieces)
                    where = f"bytes {start}-{stop - 1}/{len(data)}"
                    assert (answer.status, answer.headers["Content-Range"]) == (206, where)
            for ignored in ({}, {"Range": "bytes=5-2"}, {"Range": "lines=1-2"}, {"Range": "bytes=0-1,5-6"}):
                async with one.http.get(f"/v1/files/{file_id}", headers=ignored) as answer:
                    assert (answer.status, answer.headers["Accept-Ranges"]) == (200, "bytes")
                    assert await answer.read() == data and "Content-Range" not in answer.headers
            async with one.http.get(f"/v1/files/{file_id}", headers={"Range": "bytes=2345678-"}) as answer:
                assert (answer.status, answer.headers["Content-Range"]) == (416, "bytes */2345678")
                assert "error" in await answer.json()

    served(script, tmp_path)


def test_what_is_no_form_is_refused(tmp_path: Path):
    async def script(one: Served) -> None:
        begun = await begin(one)
        async with one.http.session.post(begun["uploadUrl"], data=b"{}") as answer:
            assert answer.status == 400

    served(script, tmp_path)
