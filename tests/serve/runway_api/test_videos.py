"""Films are asked for, made one after the other, and fetched."""

from pathlib import Path

from sqlalchemy import func, select

from serve.store.tables import File
from tests.serve.runway_api.api_kit import PRESET, Served, served

SPEECH = {"type": "text", "text": "Hello there."}
REQUEST = {"model": "gwm1_avatars", "avatar": PRESET, "speech": SPEECH}


def test_a_film_of_a_text_lasts_as_long_as_the_voice_takes(tmp_path: Path):
    async def script(one: Served) -> None:
        made = await one.ask("POST", "/avatar_videos", REQUEST)
        done = await one.until(f"/tasks/{made['id']}", "SUCCEEDED")
        async with one.http.session.get(done["output"][0]) as film:
            assert film.content_type == "video/mp4"
            assert await film.read() == b"film of 28800 samples"  # a tenth of a second for each of 12 characters
        await one.ask("DELETE", f"/tasks/{made['id']}", status=204)
        await one.ask("GET", f"/tasks/{made['id']}", status=404)
        assert one.store.do(lambda db: db.scalar(select(func.count()).select_from(File))) == 0

    served(script, tmp_path)


def test_a_film_that_waits_or_is_made_can_be_cancelled(tmp_path: Path):
    async def script(one: Served) -> None:
        endless = REQUEST | {"speech": {"type": "text", "text": "x" * 100}}
        ids = [(await one.ask("POST", "/avatar_videos", endless))["id"] for _ in range(3)]
        await one.until(f"/tasks/{ids[0]}", "RUNNING")
        for task in ids:
            await one.ask("DELETE", f"/tasks/{task}", status=204)
        assert [(await one.ask("GET", f"/tasks/{task}"))["status"] for task in ids] == ["CANCELLED"] * 3
        later = await one.ask("POST", "/avatar_videos", REQUEST)
        await one.until(f"/tasks/{later['id']}", "SUCCEEDED")  # nothing stands in its way

    served(script, tmp_path)


def test_a_sound_that_cannot_be_fetched_fails_the_task(tmp_path: Path):
    async def script(one: Served) -> None:
        audio = {"type": "audio", "audio": "https://127.0.0.1:9/a.mp3"}
        made = await one.ask("POST", "/avatar_videos", REQUEST | {"speech": audio})
        failed = await one.until(f"/tasks/{made['id']}", "FAILED")
        assert "not on the public internet" in failed["failure"] and failed["failureCode"] == "INPUT"

    served(script, tmp_path)
