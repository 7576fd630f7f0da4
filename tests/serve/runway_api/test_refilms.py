"""Films are sent, dubbed and edited by the server's task queue: asked for, followed, cancelled, resumed and fetched."""

import asyncio
import contextlib
import json
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import aiohttp
import numpy as np
import pytest
from PIL import Image
from sqlalchemy import delete, func, select, update

from gwm.media.video import read_video, write_video
from serve.runway_api.films import BARS, FilmError, FilmOptions, Generator, Refilm, done_of, failure_of
from serve.runway_api.media import check_film, named_by_kind
from serve.samples import sample_path
from serve.store.database import Store
from serve.store.tables import File, Task, new_id
from tests.serve.runway_api.api_kit import Films, Served, inline, picture, served

ROOT = Path(__file__).parents[3]
SPEECH = {"type": "text", "text": "Hello there."}
BOX = {"box": [8, 8, 16, 16]}
INNER = "https://127.0.0.1/a"


def film(path: Path, pictures: Any = None) -> bytes:
    write_video(path, np.zeros((4, 32, 48, 3), np.uint8) if pictures is None else pictures, None)
    return path.read_bytes()


async def uploaded(one: Served, data: bytes) -> str:
    begun = await one.ask("POST", "/uploads", {"filename": "talk.mp4", "type": "ephemeral"})
    form = aiohttp.FormData(begun["fields"])
    form.add_field("file", data, filename="talk.mp4")
    async with one.http.session.post(begun["uploadUrl"], data=form) as answer:
        assert answer.status == 204
    return begun["runwayUri"]


async def fetched(one: Served, url: str) -> bytes:
    async with one.http.session.get(url) as answer:
        assert answer.content_type == "video/mp4" and answer.headers["X-Content-Type-Options"] == "nosniff"
        data = await answer.read()
        assert answer.content_length == len(data)
        return data


async def left(folder: Path, *names: str) -> None:
    """Waits until these alone are in a folder: a film's own is deleted after its task has ended."""
    async with asyncio.timeout(10):
        while {path.name for path in folder.iterdir()} != set(names):
            await asyncio.sleep(0.02)


def test_a_film_that_is_uploaded_is_dubbed_and_its_result_is_fetched_and_deleted(tmp_path: Path):
    async def script(one: Served) -> None:
        video = await uploaded(one, film(tmp_path / "a.mp4"))
        made = await one.ask("POST", "/video_dubs", {"video": video, "speech": SPEECH, "faces": [0, 2], "seed": 3})
        done = await one.until(f"/tasks/{made['id']}", "SUCCEEDED", "FAILED")
        settings = json.loads(await fetched(one, done["output"][0]))
        assert settings == {"video": "video", "audio": "speech.wav", "faces": [0, 2], "seed": 3}
        await left(tmp_path / "films")
        await one.ask("DELETE", f"/tasks/{made['id']}", status=204)
        assert one.store.do(lambda db: db.scalar(select(func.count()).select_from(File))) == 1  # the upload, for a day

    served(script, tmp_path)


@pytest.mark.skipif(shutil.which("curl") is None, reason="curl is not installed")
def test_the_printed_requests_send_a_film_dub_it_follow_it_and_delete_it(tmp_path: Path):
    """By curl, one after the other; each goes on with what the one before was answered."""
    page = (ROOT / "docs" / "serving_api.md").read_text()
    (lines,) = [block.splitlines() for block in page.split("```\n") if "/v1/video_dubs -H" in block]
    film(tmp_path / "talk.mp4")

    async def script(one: Served) -> None:
        known, statuses = {"URL": str(one.http.make_url("")).rstrip("/"), "KEY": one.key}, list[int]()
        for line in lines:
            if "/tasks/" in line and "DELETE" not in line:
                await one.until(f"/tasks/{known['ID']}", "SUCCEEDED")
            line = line.replace("curl ", r"curl -s -w '\n%{http_code}' ").replace("runway://...", known.get("URI", ""))
            pipe = asyncio.subprocess.PIPE
            process = await asyncio.create_subprocess_shell(line, stdout=pipe, cwd=tmp_path, env=os.environ | known)
            text, _, status = (await process.communicate())[0].decode().rpartition("\n")
            statuses.append(int(status))
            match json.loads(text or "{}"):
                case {"runwayUri": uri, "uploadUrl": url, "fields": {"key": key}}:
                    known |= {"URI": uri, "UPLOAD_URL": url, "UPLOAD_KEY": key}
                case {"output": [url]}:
                    assert json.loads(await fetched(one, url))["audio"] == "speech.wav"
                case {"id": task}:
                    known["ID"] = task
        assert statuses == [200, 204, 200, 200, 204]
        await one.ask("GET", f"/tasks/{known['ID']}", status=404)

    served(script, tmp_path)


def test_an_edit_is_given_mask_and_picture_by_names_that_say_what_they_are(tmp_path: Path):
    async def script(one: Served) -> None:
        video, mask = inline(film(tmp_path / "a.mp4"), "video/mp4"), inline(picture((48, 32), "PNG"), "image/png")
        for given, name in ((mask, "mask.png"), (video, "mask.mp4"), ("mouth", "mouth")):
            request = {"video": video, "mask": given, "image": inline(picture((48, 32))), "prompt": "rain"}
            made = await one.ask("POST", "/video_edits", request)
            done = await one.until(f"/tasks/{made['id']}", "SUCCEEDED", "FAILED")
            settings = json.loads(await fetched(one, done["output"][0]))
            assert (settings["mask"], settings["image"], settings["prompt"]) == (name, "image.jpg", "rain")

    served(script, tmp_path)


@pytest.mark.parametrize(
    ("path", "body", "said"),
    [
        ("/video_dubs", {"face": 0, "faces": "all"}, "exclude each other"),
        ("/video_dubs", {"face": [1.0]}, "face."),
        ("/video_dubs", {"video": "file:///etc/passwd"}, "must begin with data:video/, runway://, https://"),
        ("/video_edits", {"speech": None}, "one of mask, box, between, canvas or source must be given"),
        ("/video_edits", {"box": [1, 2, 0, 4]}, "must be whole px"),
        ("/video_edits", {"between": [3, 1]}, "must be two times in seconds"),
    ],
)
def test_what_cannot_be_made_is_refused_before_it_is_queued(path: str, body: dict, said: str, tmp_path: Path):
    async def script(one: Served) -> None:
        refused = await one.ask("POST", path, {"video": "runway://0123456789", "speech": SPEECH} | body, status=400)
        assert said in refused["error"]
        assert one.store.do(lambda db: db.scalar(select(func.count()).select_from(Task))) == 0

    served(script, tmp_path)


def test_what_this_server_has_no_model_for_is_refused_with_the_reason(tmp_path: Path):
    async def script(one: Served) -> None:
        refused = await one.ask("POST", "/video_edits", {"video": "runway://0123456789"} | BOX, status=409)
        assert refused["error"] == "No edit."

    served(script, tmp_path, films=Films(refused=("edit",)))


def test_the_shipped_character_dubs_and_a_world_does_not():
    world = str(ROOT / "weights" / "world")
    assert Generator(str(ROOT / "weights" / "character"), "", None, FilmOptions()).refuses("dub") is None
    assert "no motion latents" in (Generator(world, "", None, FilmOptions()).refuses("dub") or "")
    assert "films.edit_artifact" in (Generator(world, "", None, FilmOptions()).refuses("edit") or "")
    assert Generator(world, "", None, FilmOptions(edit_artifact=world)).refuses("edit") is None


@pytest.mark.parametrize(
    ("data", "said"),
    [
        (b"#EXTM3U\nfile:///etc/passwd", "is no video that can be read"),
        (b"ffconcat version 1.0\nfile /etc/passwd", "is no video that can be read"),
        (b"\x00\x00\x00\x20ftypisom" + bytes(100), "video must be a video file"),
    ],
)
def test_a_file_that_is_no_film_fails_the_task(data: bytes, said: str, tmp_path: Path):
    async def script(one: Served) -> None:
        made = await one.ask("POST", "/video_dubs", {"video": await uploaded(one, data), "speech": SPEECH})
        failed = await one.until(f"/tasks/{made['id']}", "SUCCEEDED", "FAILED")
        assert said in failed["failure"] and failed["failureCode"] == "INPUT" and str(tmp_path) not in failed["failure"]
        await left(tmp_path / "films")

    served(script, tmp_path)


@pytest.mark.parametrize(
    ("path", "given"),
    [("dubs", {"video": INNER, "speech": SPEECH}), ("edits", {"mask": INNER}), ("edits", BOX | {"image": INNER})],
)
def test_a_file_at_an_inner_address_is_not_fetched(path: str, given: dict[str, Any], tmp_path: Path):
    async def script(one: Served) -> None:
        video = inline(film(tmp_path / "a.mp4"), "video/mp4")
        made = await one.ask("POST", f"/video_{path}", {"video": video} | given)
        failed = await one.until(f"/tasks/{made['id']}", "SUCCEEDED", "FAILED")
        why = failed.get("failureCode"), failed.get("failure")
        assert why == ("INPUT", "127.0.0.1 is not on the public internet.")

    served(script, tmp_path)


def test_a_film_without_a_folder_fails_alone(tmp_path: Path, caplog: pytest.LogCaptureFixture):
    async def script(one: Served) -> None:
        (tmp_path / "films").touch()
        made = await one.ask("POST", "/video_dubs", {"video": "runway://0123456789", "speech": SPEECH})
        failed = await one.until(f"/tasks/{made['id']}", "SUCCEEDED", "FAILED")
        why = failed["failureCode"], failed["failure"]  # which names no folder of the server
        assert why == ("INTERNAL", "The film could not be written: Not a directory.")
        await asyncio.sleep(0.1)
        assert "is started again" not in caplog.text

    served(script, tmp_path)


def test_films_that_are_too_long_or_too_large_are_refused(tmp_path: Path):
    film(tmp_path / "a.mp4", np.zeros((48, 32, 48, 3), np.uint8))  # of 2 s
    check_film(tmp_path / "a.mp4", FilmOptions(longest_s=2.5, max_pixels=32 * 48))
    with pytest.raises(ValueError, match="lasts 2 s, must last at most 1"):
        check_film(tmp_path / "a.mp4", FilmOptions(longest_s=1))
    with pytest.raises(ValueError, match="has 1536 pixels a picture, must have at most 1535"):
        check_film(tmp_path / "a.mp4", FilmOptions(max_pixels=1535))


def test_a_picture_with_too_many_pixels_is_refused_by_its_header(tmp_path: Path):
    Image.new("1", (8000, 5001)).save(tmp_path / "mask", "PNG")
    with pytest.raises(ValueError, match="at most 40 million pixels"):
        named_by_kind(tmp_path / "mask", FilmOptions(), videos=True)
    film(tmp_path / "a.mp4")
    with pytest.raises(ValueError, match=r"a\.mp4 is no picture that can be read"):
        named_by_kind(tmp_path / "a.mp4", FilmOptions(), videos=False)


class Slow(Films):
    """Begins a film, and ends it only where an earlier run has begun it."""

    async def __call__(self, film: Any, folder: Path, go_on: Any) -> Path | None:
        begun = folder / "begun"
        while not begun.exists() or film.settings["seed"] == 1:
            if not await go_on(0.25):
                return None
            (folder / "under way").touch()
            await asyncio.sleep(0.02)
        return await super().__call__(film, folder, go_on)


def test_a_film_that_is_made_can_be_cancelled_and_leaves_nothing(tmp_path: Path):
    async def script(one: Served) -> None:
        request = {"video": await uploaded(one, film(tmp_path / "a.mp4")), "speech": SPEECH, "seed": 1}
        made = await one.ask("POST", "/video_dubs", request)
        running = await one.until(f"/tasks/{made['id']}", "RUNNING")
        assert running["progress"] in (0.0, 0.25)
        await one.ask("DELETE", f"/tasks/{made['id']}", status=204)
        await left(tmp_path / "films")
        assert (await one.ask("GET", f"/tasks/{made['id']}"))["status"] == "CANCELLED"

    served(script, tmp_path, films=Slow())


def test_a_film_goes_on_in_its_folder_after_a_restart_without_being_sent_again(tmp_path: Path):
    async def begin(one: Served) -> None:
        request = {"video": await uploaded(one, film(tmp_path / "a.mp4")), "speech": SPEECH}
        made = await one.ask("POST", "/video_dubs", request)
        folder = tmp_path / "films" / made["id"]
        async with asyncio.timeout(10):
            while not (folder / "under way").exists():
                await asyncio.sleep(0.02)

    async def go_on(one: Served) -> None:
        task = one.store.do(lambda db: db.scalar(select(Task)))
        assert task is not None
        await one.until(f"/tasks/{task.id}", "SUCCEEDED")
        await left(tmp_path / "films", "no film")

    served(begin, tmp_path, films=Slow())
    (folder,) = (tmp_path / "films").iterdir()
    assert {path.name for path in folder.iterdir()} == {"video", "speech.wav", "under way"}
    (folder / "begun").touch()
    for name in (new_id(), "no film"):
        (tmp_path / "films" / name).mkdir()
    with contextlib.closing(Store(f"sqlite:///{tmp_path}/gwm.sqlite")) as store:
        store.do(lambda db: db.execute(update(Task).values(alive_ms=0)))  # long ago
        store.do(lambda db: db.execute(delete(File)))  # what was uploaded
    served(go_on, tmp_path, films=Slow())


def test_progress_is_read_off_the_bars_of_each_command():
    assert done_of(b"\rfind faces:  50%|##   | 5/10", BARS["dub"]) == 0.25
    assert done_of(b"voice: 100%|\rdub:  50%|##", BARS["dub"]) == pytest.approx(0.8)
    assert done_of(b"\rwrite:   0%|", BARS["edit"]) == 0.9
    assert done_of(b"\redit: 12%", BARS["dub"]) is None and done_of(b"Loading", BARS["edit"]) is None


def test_a_refusal_is_the_senders_and_anything_else_is_the_servers():
    folder = Path("/a/b")
    refused = failure_of(1, "face 0: ...\n/a/b/video shows no face.\n", folder)
    assert type(refused) is ValueError and str(refused) == "video shows no face."
    bug = failure_of(1, "Traceback (most recent call last):\n  File x\nKeyError: 3\n", folder)
    assert isinstance(bug, FilmError) and isinstance(failure_of(-9, "", folder), FilmError)
    assert isinstance(failure_of(1, "Memory does not suffice (x). Take a smaller batch.", folder), FilmError)


@pytest.fixture
def talk(tmp_path: Path) -> Path:
    """A photograph for a quarter of a second, and a sound."""
    face = np.asarray(Image.open(sample_path("portrait")).convert("RGB").resize((192, 192)))
    (tmp_path / "video").write_bytes(film(tmp_path / "talk.mp4", np.stack([face] * 6)))
    (tmp_path / "speech.wav").write_bytes(sample_path("speech").read_bytes())
    return tmp_path


def test_the_real_command_dubs_in_a_process_of_its_own_and_says_how_far_it_is(talk: Path):
    shares: list[float] = []

    async def go_on(done: float) -> bool:
        shares.append(done)
        return True

    make = Generator(str(ROOT / "weights" / "character"), "", None, FilmOptions())
    asked = Refilm("dub", {"video": "video", "audio": "speech.wav", "seed": 0})
    path = asyncio.run(make(asked, talk, go_on))
    assert path is not None and read_video(path)[0].shape == (6, 192, 192, 3)
    assert shares and shares == sorted(shares) and shares[-1] > 0.5


CHILD = """import os, time
from serve.workers import end_with_parent
end_with_parent(os.getppid())
print(flush=True)
time.sleep(600)"""
PARENT = "import subprocess, sys; print(subprocess.Popen([sys.executable, '-c', sys.argv[1]]).pid, flush=True); input()"


def test_a_film_is_not_made_on_behind_a_server_that_was_killed():
    """Whoever takes the film over would find its folder in use."""
    pipe = subprocess.PIPE
    parent = subprocess.Popen([sys.executable, "-c", PARENT, CHILD], cwd=ROOT, stdin=pipe, stdout=pipe, text=True)
    assert parent.stdout is not None
    child = Path("/proc") / parent.stdout.readline().strip()
    try:
        parent.stdout.readline()  # now it watches
        assert (child / "stat").exists()
        parent.kill()
        parent.wait()
        until_s = time.monotonic() + 60
        while child.exists() and (child / "stat").read_text().split()[2] != "Z" and time.monotonic() < until_s:
            time.sleep(0.1)
        assert time.monotonic() < until_s
    finally:
        for pipe in (parent.stdin, parent.stdout):
            pipe.close()  # type: ignore[union-attr]


def test_what_a_client_writes_is_not_resolved_and_a_refusal_names_no_folder(
    talk: Path, monkeypatch: pytest.MonkeyPatch
):
    """Read by Hydra, `${oc.env:SECRET}` would stand in the refusal, which the client is shown."""
    monkeypatch.setenv("SECRET", "hunter2")

    async def go_on(done: float) -> bool:
        return True

    make = Generator("", "", None, FilmOptions(edit_artifact=str(ROOT / "weights" / "world")))
    asked = Refilm("edit", {"video": "video", "box": [8, 8, 16, 16], "prompt": "${oc.env:SECRET}"})
    with pytest.raises(ValueError, match=r"prompt='\$\{oc.env:SECRET\}' must be left out") as refused:
        asyncio.run(make(asked, talk, go_on))
    assert str(talk) not in str(refused.value)
