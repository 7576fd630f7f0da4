"""Runway's own samples and command line, unchanged, against a running server: cloned when the tests run."""

import asyncio
import contextlib
import json
import os
import subprocess
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from aiohttp import web

from serve.bench.browser import open_browser
from tests.serve.live.room.test_clients import (
    FPS,
    HERTZ,
    NODE,
    NPM,
    SHOWN_FRAMES,
    WATCH,
    frame_steps,
    microphone,
    pitch_of_microphone,
    until,
)
from tests.serve.live.server_kit import DEADLINE_S
from tests.serve.runway_api.api_kit import PRESET, Served, served, site

__all__ = ["microphone"]  # a fixture
GITHUB = "https://github.com/runwayml"
# Of October 2026; what is newer may ask for more.
SOURCES = {
    "skills": "c5674fd2bfcf34c006fb8d9cadf912f21027e310",
    "avatars-sdk-react": "917342729c1f23de20ba0238775dd003276c25b8",
    "runway-characters-meet": "514aa954c2b4a843e2dacfbe5eb979a8ac6d211d",
}
RUNWAY, RECALL = "https://api.dev.runwayml.com", "https://us-west-2.recall.ai"  # addresses that the samples have inside
EXPRESS_PORT, MEET_PORT = 3000, 8219
# Of a server's requests: those for a service that is not ours go to one that speaks its interface.
ELSEWHERE = """const ask = globalThis.fetch;
globalThis.fetch = (url, options) => ask(String(url).replace(%s, %s), options);"""

pytestmark = pytest.mark.acceptance


def cloned(name: str, folder: Path) -> Path:
    """The sample's repository, or a skipped test where GitHub cannot be reached."""
    where = folder / name
    cloning = subprocess.run(["git", "clone", "--quiet", f"{GITHUB}/{name}", where], capture_output=True, text=True)
    if cloning.returncode:
        pytest.skip(f"{GITHUB}/{name} cannot be cloned: {cloning.stderr.strip()[-200:]}")
    subprocess.run(["git", "checkout", "--quiet", SOURCES[name]], cwd=where, check=True)
    return where


def node(folder: Path, *words: str | Path) -> None:
    environment = os.environ | {"PATH": os.pathsep.join((str(NODE.parent), os.environ["PATH"]))}
    subprocess.run([NODE, *words], cwd=folder, env=environment, check=True)


def installed(folder: Path, *more: str) -> None:
    node(folder, NPM, "install", "--no-audit", "--no-fund", "--silent", *more)


@pytest.fixture(scope="module")
def sources(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("samples")


@contextlib.asynccontextmanager
async def node_server(folder: Path, port: int, *words: str | Path, **environment: str) -> AsyncIterator[str]:
    """A sample's own server, as soon as it answers."""
    log = folder / "server.log"
    with log.open("w") as output:
        process = await asyncio.create_subprocess_exec(
            NODE, *words, cwd=folder, env=os.environ | environment, stdout=output, stderr=output
        )
    try:
        async with asyncio.timeout(DEADLINE_S):
            while True:
                assert process.returncode is None, log.read_text()
                with contextlib.suppress(OSError):
                    _, writer = await asyncio.open_connection("127.0.0.1", port)
                    writer.close()
                    break
                await asyncio.sleep(0.1)
        yield f"http://localhost:{port}"
    finally:
        with contextlib.suppress(ProcessLookupError):
            process.terminate()
        await process.wait()


def address(one: Served) -> str:
    return f"http://127.0.0.1:{one.http.port}"


async def watched(page: Any) -> None:
    """The character moves at its own rate in the page's picture."""
    await page.evaluate("window.seen = {}")
    await page.evaluate(WATCH)
    steps = await frame_steps(page)
    assert len(steps) >= SHOWN_FRAMES - 1
    assert round(steps.min(), 2) == 1 and abs(steps - steps.round()).max() < 0.01, f"not {FPS} frames a second"


def test_the_command_line_of_runways_skills_asks_and_waits(sources: Path, tmp_path: Path):
    program = cloned("skills", sources) / "skills" / "use-runway-api" / "scripts" / "runway-api.mjs"

    async def script(one: Served) -> None:
        environment = {"RUNWAY_SKILLS_API_SECRET": one.key, "RUNWAY_SKILLS_BASE_URL": address(one)}

        async def told(*words: str, fails: bool = False) -> Any:
            pipe = asyncio.subprocess.PIPE
            process = await asyncio.create_subprocess_exec(
                NODE, program, *words, env=os.environ | environment, stdout=pipe, stderr=pipe
            )
            output, errors = await process.communicate()
            assert (process.returncode != 0) == fails, (words, output, errors)
            return json.loads(errors if fails else output)

        assert (await told("auth", "status"))["authenticated"] is True
        document = json.dumps({"name": "Hours", "content": "Nine to five."})
        made = await told("request", "POST", "/v1/documents", "--body", document)
        listed = (await told("documents", "list"))["data"]
        assert [each["id"] for each in listed] == [made["id"]]
        assert (await told("avatars", "list"))["data"] == [] == (await told("voices", "list"))["data"]
        wish = {"model": "gwm1_avatars", "avatar": PRESET, "speech": {"type": "text", "text": "Hello."}}
        film = await told("request", "POST", "/v1/avatar_videos", "--body", json.dumps(wish))
        assert (await told("wait", film["id"]))["status"] == "SUCCEEDED"
        missing = await told("request", "GET", "/v1/avatars/00000000-0000-4000-8000-000000000000", fails=True)
        assert missing["status"] == 404
        wrong = await told("request", "POST", "/v1/documents", "--body", "{}", fails=True)
        assert wrong["status"] == 400 and {each["field"] for each in wrong["issues"]} == {"name", "content"}

    served(script, tmp_path)


def test_the_express_sample_shows_a_character_and_hears_its_visitor(sources: Path, microphone: Path, tmp_path: Path):
    folder = cloned("avatars-sdk-react", sources) / "examples" / "express"
    installed(folder)
    node(folder, folder / "node_modules" / "vite" / "bin" / "vite.js", "build", "--logLevel", "error")

    async def script(one: Served) -> None:
        async def ours(route: Any) -> None:
            """The page's own request names Runway's host; a customer sets the address."""
            answer = await route.fetch(url=route.request.url.replace(RUNWAY, address(one)))
            await route.fulfill(response=answer)

        program = folder / "node_modules" / "tsx" / "dist" / "cli.mjs"
        settings = {"RUNWAYML_BASE_URL": address(one), "RUNWAYML_API_SECRET": one.key}
        async with (
            node_server(folder, EXPRESS_PORT, program, "server.ts", **settings) as url,
            open_browser(microphone) as browser,
        ):
            page = await (await browser.new_context()).new_page()
            await page.route(f"{RUNWAY}/**", ours)
            await page.goto(url)
            await page.locator("button.preset").first.click()
            await watched(page)
            async with asyncio.timeout(DEADLINE_S):
                while sum(map(len, one.kit.faces[0].users)) < 72_000:
                    await asyncio.sleep(0.05)
            assert abs(pitch_of_microphone(one) - HERTZ) < 5
            (session,) = (await one.ask("GET", "/avatar_conversations"))["data"]
            await page.locator("[data-avatar-control=end-call]").click()
            await one.until(f"/realtime_sessions/{session['id']}", "COMPLETED")

    served(script, tmp_path)


def test_the_meeting_sample_brings_a_character_and_its_bot_leaves_at_the_end(
    sources: Path, microphone: Path, tmp_path: Path
):
    folder = cloned("runway-characters-meet", sources)
    installed(folder, "livekit-client@2.23.0")
    library = folder / "node_modules" / "livekit-client" / "dist" / "livekit-client.umd.js"
    asked: list[tuple[str, Any]] = []

    async def recall(request: web.BaseRequest) -> web.Response:
        asked.append((request.path, await request.json() if request.can_read_body and request.content_length else None))
        return web.json_response({"id": "bot-1"}, status=201 if request.path.endswith("/bot/") else 200)

    async def script(one: Served) -> None:
        preload = tmp_path / "elsewhere.mjs"
        async with site(recall) as bots, aiohttp.ClientSession() as client:
            preload.write_text(ELSEWHERE % (json.dumps(RECALL), json.dumps(bots)))
            words = ("--import", preload, "server.js")
            settings = {"PORT": str(MEET_PORT), "RECALL_API_KEY": "k", "PUBLIC_URL": f"http://localhost:{MEET_PORT}"}
            async with node_server(folder, MEET_PORT, *words, **settings) as url, open_browser(microphone) as browser:
                headers = {"x-runway-key": one.key, "x-runway-base-url": address(one)}
                wish = {"meetingUrl": "https://meet.example/a", "avatarType": "preset", "avatarId": "influencer"}

                async def status() -> dict[str, Any]:
                    async with client.get(f"{url}/api/sessions/{session}") as answer:
                        return await answer.json()

                async with client.post(f"{url}/api/start", json=wish, headers=headers) as answer:
                    session = (await answer.json())["sessionId"]
                began = time.monotonic()
                while (now := await status())["status"] != "active":
                    assert now["status"] != "failed" and time.monotonic() - began < DEADLINE_S, now
                    await asyncio.sleep(0.2)
                page = await (await browser.new_context(viewport={"width": 1280, "height": 720})).new_page()
                given = {"path": library, "content_type": "text/javascript"}
                await page.route("https://cdn.jsdelivr.net/**", lambda route: route.fulfill(**given))
                (created,) = asked
                await page.goto(created[1]["output_media"]["camera"]["config"]["url"])
                await watched(page)
                async with asyncio.timeout(DEADLINE_S):
                    while sum(map(len, one.kit.faces[0].users)) < 72_000:
                        await asyncio.sleep(0.05)
                assert abs(pitch_of_microphone(one) - HERTZ) < 5
                await one.ask("DELETE", f"/realtime_sessions/{now['runwaySessionId']}", status=204)
                while (now := await status())["status"] != "ended":
                    assert time.monotonic() - began < 3 * DEADLINE_S, now
                    await asyncio.sleep(0.2)
                assert asked[-1][0] == "/api/v1/bot/bot-1/leave_call/"
                await until(page, "document.getElementById('avatar-video').style.display == 'none'")

    served(script, tmp_path)
