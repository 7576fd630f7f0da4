"""An upload is sent once, to a place that was given out, and used by its name."""

from pathlib import Path

import aiohttp
import pytest

from serve.runway_api import mount
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
        from sqlalchemy import select

        from serve.store.tables import File

        file_id = one.store.do(lambda db: db.scalar(select(File.id)))
        assert file_id is not None
        await one.ask("GET", f"/files/{file_id}", status=404)

    served(script, tmp_path)


def test_a_large_upload_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(mount, "UPLOAD_BYTES", 1000)

    async def script(one: Served) -> None:
        assert await send(one, await begin(one), bytes(200_000)) == 413

    served(script, tmp_path)


def test_what_is_no_form_is_refused(tmp_path: Path):
    async def script(one: Served) -> None:
        begun = await begin(one)
        async with one.http.session.post(begun["uploadUrl"], data=b"{}") as answer:
            assert answer.status == 400

    served(script, tmp_path)
