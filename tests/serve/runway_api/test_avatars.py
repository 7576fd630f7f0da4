"""An avatar is made in the background, and everything of it goes with it."""

import io
from pathlib import Path

import pytest
from PIL import Image
from sqlalchemy import func, select

from serve.store.tables import File
from tests.serve.runway_api.api_kit import AVATAR, Served, inline, picture, served


def test_an_avatar_is_processing_and_then_ready_with_a_portrait_of_the_models_resolution(tmp_path: Path):
    async def script(one: Served) -> None:
        made = await one.ask("POST", "/avatars", AVATAR)
        assert (made["status"], made["processedImageUri"], made["startScript"]) == ("PROCESSING", None, None)
        ready = await one.until(f"/avatars/{made['id']}", "READY")
        async with one.http.session.get(ready["processedImageUri"]) as shown:
            assert Image.open(io.BytesIO(await shown.read())).size == (48, 32)
        assert ready["voice"]["presetId"] == "clara" and ready["voice"]["name"] == "Clara"
        assert ready["createdAt"].endswith("Z")

    served(script, tmp_path)


@pytest.mark.parametrize(
    ("image", "reason"),
    [
        (inline(b"no picture at all"), "not a picture that can be read"),
        (inline(picture((9_000, 9_000), "PNG"), "image/png"), "at most 40 million"),
        ("data:image/png;base64,***************", "must hold base64"),
        ("runway://182bd5e5-6e1a-4fe4-a799-aa6d9a6ab26e", "no such upload"),
        ("https://127.0.0.1:9/secret.png", "not on the public internet"),
    ],
)
def test_a_picture_that_cannot_be_used_is_told_by_a_failed_avatar(image: str, reason: str, tmp_path: Path):
    async def script(one: Served) -> None:
        made = await one.ask("POST", "/avatars", AVATAR | {"referenceImage": image})
        assert reason in (await one.until(f"/avatars/{made['id']}", "FAILED"))["failureReason"]

    served(script, tmp_path)


def test_a_change_of_some_fields_leaves_the_others(tmp_path: Path):
    async def script(one: Served) -> None:
        made = await one.ask("POST", "/avatars", AVATAR | {"startScript": "Hello."})
        path = f"/avatars/{made['id']}"
        before = await one.until(path, "READY")
        renamed = await one.ask("PATCH", path, {"name": "Wanda"})
        assert renamed | {"updatedAt": 0} == before | {"name": "Wanda", "updatedAt": 0}
        assert (await one.ask("PATCH", path, {"startScript": None}))["startScript"] is None

    served(script, tmp_path)


def test_a_new_picture_is_read_and_the_old_one_deleted(tmp_path: Path):
    async def script(one: Served) -> None:
        made = await one.ask("POST", "/avatars", AVATAR)
        path = f"/avatars/{made['id']}"
        before = await one.until(path, "READY")
        changed = await one.ask("PATCH", path, {"referenceImage": inline(picture((64, 64)))})
        assert changed["status"] == "PROCESSING"
        after = await one.until(path, "READY")
        assert after["referenceImageUri"] != before["referenceImageUri"]
        assert one.store.do(lambda db: db.scalar(select(func.count()).select_from(File))) == 2

    served(script, tmp_path)


def test_deleting_deletes_the_pictures_too(tmp_path: Path):
    async def script(one: Served) -> None:
        made = await one.ask("POST", "/avatars", AVATAR)
        ready = await one.until(f"/avatars/{made['id']}", "READY")
        await one.ask("DELETE", f"/avatars/{made['id']}", status=204)
        await one.ask("GET", f"/avatars/{made['id']}", status=404)
        await one.ask("GET", f"/files/{ready['referenceImageUri'].rpartition('/')[2]}", status=404)
        assert one.store.do(lambda db: db.scalar(select(func.count()).select_from(File))) == 0

    served(script, tmp_path)


def test_a_deleted_voice_is_shown_as_deleted(tmp_path: Path):
    async def script(one: Served) -> None:
        text = {"type": "text", "prompt": "A deep and slow old man.", "model": "eleven_ttv_v3"}
        voice = await one.ask("POST", "/voices", {"name": "Deep", "from": text})
        made = await one.ask("POST", "/avatars", AVATAR | {"voice": {"type": "custom", "id": voice["id"]}})
        assert made["voice"]["name"] == "Deep" and not made["voice"]["deleted"]
        await one.ask("DELETE", f"/voices/{voice['id']}", status=204)
        assert (await one.ask("GET", f"/avatars/{made['id']}"))["voice"]["deleted"]

    served(script, tmp_path)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("name", ""),
        ("name", "x" * 51),
        ("personality", "x" * 10_001),
        ("referenceImage", "http://example.com/picture.png"),
        ("referenceImage", "file:///etc/passwd"),
        ("voice", {"type": "runway-live-preset", "presetId": "nobody"}),
        ("documentIds", ["x"]),
        ("startScript", "x" * 2_001),
    ],
)
def test_a_field_beyond_its_limit_is_named(field: str, value: object, tmp_path: Path):
    async def script(one: Served) -> None:
        refused = await one.ask("POST", "/avatars", AVATAR | {field: value}, status=400)
        assert refused["issues"][0]["path"][0] == field and refused["error"].startswith(field)

    served(script, tmp_path)


def test_references_that_are_not_there_are_refused(tmp_path: Path):
    nobody = "182bd5e5-6e1a-4fe4-a799-aa6d9a6ab26e"

    async def script(one: Served) -> None:
        await one.ask("POST", "/avatars", AVATAR | {"documentIds": [nobody]}, status=404)
        await one.ask("POST", "/avatars", AVATAR | {"voice": {"type": "custom", "id": nobody}}, status=404)
        assert (await one.ask("GET", "/avatars"))["data"] == []

    served(script, tmp_path)
