"""A world in a real browser: keys move the picture the right way, and what is no action is refused while it goes on.

The world is the maze itself behind the engine's interface, so that the truth is known: page, connection, clock and
actions are the server's own.
"""

import asyncio
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
import soundfile

from data.worlds.maze import NAMES, Maze
from gwm.condition.spec import Control
from gwm.media.framing import Framing
from gwm.resolution import Resolution
from serve.acts import Applied
from serve.bench.browser import BROWSERS, open_browser, open_page
from serve.live.avatar.changes import Act, Change, ChangeRefusedError, Reset, Rewind, SessionControls
from serve.live.avatar.chunk_times import StreamTiming
from serve.live.characters import read_places
from serve.live.http.ice import IceServers
from serve.live.http.peer import close_connection
from serve.live.http.receipts import CHANGES
from serve.live.http.session import SessionParts
from serve.live.http.walk import Walk
from tests.serve.live.server_kit import DEADLINE_S, Kit, nothing_left_behind, serving
from tests.serve.live.test_page import until

SIZE = 64
OFF = 8.0  # grey levels by which a coded picture may differ from the drawn one
FLOOD = 1_000  # messages at once
GAP = 12  # frames, half a second, that a busy machine may leave out; a flood that was served would take more
TIMING = StreamTiming(
    chunk_samples=4_000, lookahead_samples=0, frame_samples=1_000, sample_rate=24_000, lead_samples=5_500
)
KEYS = tuple(Control(name, 0.0, 1.0, kind="discrete") for name in NAMES)


class MazeFace:
    """An engine that draws the maze itself, four frames a chunk."""

    def __init__(self) -> None:
        self.maze, self.numbers, self.chunks, self.changes = Maze(SIZE), dict.fromkeys(NAMES, 0.0), 0, list[Change]()
        self.stops = 0
        self._kept: list[Any] = []

    async def start(self) -> None:
        self.maze.reset(seed=4)

    async def step(self, agent: np.ndarray, user: np.ndarray, *, within_s: float = 0.0) -> np.ndarray:
        self._kept.append((self.maze.place.copy(), self.maze.angle))
        pressed, pictures = np.array([self.numbers[name] for name in NAMES], float), []
        for _ in range(4):
            self.maze.step(pressed)
            pictures.append(self.maze.render())
        self.chunks += 1
        return np.stack(pictures)

    async def change(self, change: Change) -> Applied:
        if isinstance(change, Act):
            foreign = sorted(set(change.action or {}) - set(NAMES))
            if foreign:
                raise ChangeRefusedError(f"{foreign[0]} must be one of {list(NAMES)}.")
            self.numbers |= change.action or dict.fromkeys(NAMES, 0.0)
        if isinstance(change, Rewind):
            self.maze.place, self.maze.angle = self._kept[-change.chunks]
        if isinstance(change, Reset):
            await self.start()
        self.changes.append(change)
        return Applied(self.chunks, self.chunks / 6)

    async def stop(self) -> None:
        self.stops += 1


def as_world(kit: Kit, places: Path) -> list[MazeFace]:
    """Let the kit's server serve the maze."""
    faces: list[MazeFace] = []

    def walk(session_id: str, character: Any, on_end: Callable[[], None]) -> Walk:
        faces.append(MazeFace())
        parts = SessionParts(
            id=session_id, character=character, face=faces[-1], timing=TIMING, timeouts=kit.timeouts,
            gauges=kit.gauges, on_end=on_end,
        )  # fmt: skip
        return Walk(parts, ice_servers=IceServers([]))

    kit.api.make_conversation = walk
    kit.api.framing = Framing(Resolution(SIZE, SIZE))
    kit.api.characters = read_places(places, kit.api.framing)
    kit.api.controls = SessionControls(prompt=False, actions=KEYS, code=(), rewind_chunks=6, chunk_s=1 / 6, sound=False)
    return faces


async def held(page: Any, key: str, seconds: float) -> None:
    await page.keyboard.down(key)
    await asyncio.sleep(seconds)
    await page.keyboard.up(key)


def between(before: float, after: float) -> float:
    """Radians from one angle to another, the shorter way."""
    return float((after - before + np.pi) % (2 * np.pi) - np.pi)


async def came(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(DEADLINE_S):
        while not condition():
            await asyncio.sleep(0.05)


async def shown(page: Any) -> np.ndarray:
    """The picture of the page's video."""
    pixels = await page.evaluate(
        """([size]) => {
          const small = Object.assign(document.createElement("canvas"), { width: size, height: size }).getContext("2d");
          small.drawImage(document.getElementById("face"), 0, 0, size, size);
          return [...small.getImageData(0, 0, size, size).data];
        }""",
        [SIZE],
    )
    return np.array(pixels, np.uint8).reshape(SIZE, SIZE, 4)[..., :3]


def off(one: np.ndarray, other: np.ndarray) -> float:
    """Mean difference of two pictures in grey levels."""
    return float(np.abs(one.astype(float) - other).mean())


async def arrived(page: Any, maze: Maze) -> None:
    """Wait until the page shows what the maze does, which stands still."""
    async with asyncio.timeout(DEADLINE_S):
        while off(await shown(page), maze.render()) > OFF:
            await asyncio.sleep(0.1)


async def turn_by_key(page: Any, face: MazeFace) -> None:
    """Right and left on the spot, and the page shows it."""
    maze = face.maze
    begin, seen = maze.state, maze.render()
    await arrived(page, maze)
    await held(page, "ArrowRight", 1.0)
    await came(lambda: not any(face.numbers.values()))
    turned = maze.angle
    assert between(begin[2], turned) > 0.3 and (maze.place == begin[:2]).all()  # to the right, on the spot
    await arrived(page, maze)
    assert off(maze.render(), seen) > 2 * OFF  # so the page shows the turn
    await held(page, "a", 1.0)
    await came(lambda: not any(face.numbers.values()))
    assert between(turned, maze.angle) < -0.3


async def press_a_button(page: Any, face: MazeFace) -> None:
    button = page.locator("#keys [name=back]")
    await button.dispatch_event("pointerdown", {"pointerId": 1})
    await came(lambda: face.numbers["back"] == 1)
    await button.dispatch_event("pointerup", {"pointerId": 1})
    await came(lambda: face.numbers["back"] == 0)


async def connect_while_a_key_is_held(page: Any, kit: Kit, face: MazeFace) -> None:
    """A key that is let go meanwhile is let go."""
    await page.keyboard.down("ArrowRight")
    await came(lambda: face.numbers["turn_right"] == 1)
    (session,) = kit.admission.sessions.values()
    assert isinstance(session, Walk) and session._transport
    await session._transport.close()  # and the page connects again
    await page.keyboard.up("ArrowRight")
    await came(lambda: face.numbers["turn_right"] == 0)


async def hold_the_picture(page: Any, face: MazeFace) -> None:
    """A mouse that is held at the right turns there; moved to the left, it turns back; let go, nothing is pressed."""
    box = await page.locator("#face").bounding_box()
    middle = box["y"] + box["height"] / 2
    await page.mouse.move(box["x"] + 0.9 * box["width"], middle)
    await page.mouse.down()
    await came(lambda: face.numbers["turn_right"] == 1)
    await page.mouse.move(box["x"] + 0.1 * box["width"], middle)
    await came(lambda: face.numbers["turn_left"] == 1 and face.numbers["turn_right"] == 0)
    await page.mouse.up()
    await came(lambda: not any(face.numbers.values()))


async def pause_and_go_back(page: Any, face: MazeFace) -> None:
    """In a pause nothing is generated, and frames go on after it; a step back is at most what the server keeps."""
    await page.click("#pause")
    await until(page, "document.getElementById('app').dataset.state === 'paused'")
    await asyncio.sleep(1.0)
    chunks, frames = face.chunks, await page.evaluate("window.seen.times.length")
    await asyncio.sleep(1.0)
    assert face.chunks == chunks and await page.evaluate("window.seen.times.length") == frames
    await page.click("#pause")
    await came(lambda: face.chunks > chunks + 3)
    await page.keyboard.press("b")
    await came(lambda: face.changes[-1] == Rewind(6))


async def save_a_clip(page: Any, path: Path) -> None:
    """The file that the page makes can be decoded and has seconds of picture."""
    seen = await page.evaluate("window.seen.times.length")
    await until(page, f"window.seen.times.length > {seen + 48}")
    async with page.expect_download() as waiting:
        await page.click("#clip")
    download = await waiting.value
    assert download.suggested_filename in ("world.mp4", "world.webm")
    await download.save_as(path)
    with av.open(str(path)) as film:
        times = [frame.time for frame in film.decode(video=0)]
    assert len(times) > 24 and times[-1] - times[0] > 2


@pytest.mark.acceptance
@pytest.mark.skipif(not any(map(shutil.which, BROWSERS)), reason="no Chromium: apt-get install chromium")
def test_keys_turn_the_view_the_right_way(tmp_path: Path):
    """Turn, walk, go back, begin again; by key and by a button that is held."""
    pytest.importorskip("playwright")
    from PIL import Image

    world = Maze(SIZE)
    world.reset(seed=4)
    Image.fromarray(world.render()).save(tmp_path / "place-1.png")
    microphone = tmp_path / "silence.wav"
    soundfile.write(microphone, np.zeros(48_000), 48_000)

    async def script() -> None:
        async with nothing_left_behind(), open_browser(microphone) as browser, serving() as (kit, client):
            faces = as_world(kit, tmp_path)
            page = await open_page(browser, str(client.make_url("/")).rstrip("/"))
            await page.evaluate("void (navigator.mediaDevices.getUserMedia = async () => { throw new Error('no'); })")
            assert await page.text_content("#start") == "Walk"
            await page.click("#start")
            await until(page, "document.getElementById('face').videoWidth === 64")
            await until(page, "document.getElementById('status').textContent.includes('Walk')")
            await turn_by_key(page, faces[0])
            await press_a_button(page, faces[0])
            await connect_while_a_key_is_held(page, kit, faces[0])
            await page.keyboard.press("r")
            await came(lambda: isinstance(faces[0].changes[-1], Reset))
            await hold_the_picture(page, faces[0])
            await pause_and_go_back(page, faces[0])
            await save_a_clip(page, tmp_path / "clip")
            for key in ("ArrowLeft", "ArrowRight") * 4:  # from rest, so that the picture's change is the key's
                await asyncio.sleep(1.0)
                await held(page, key, 0.4)
            await until(page, "/^\\d+ ms$/.test(document.getElementById('n-action').textContent)")
            times = await page.evaluate("document.getElementById('n-action').dataset.times")
            assert all(0 < int(ms) < 2000 for ms in times.split())
            await page.keyboard.press("Escape")
            await until(page, "!document.getElementById('choose').hidden")
            assert faces[0].stops == 1
            await page.context.close()

    asyncio.run(script())


@pytest.mark.acceptance
def test_a_world_has_picture_and_no_sound(tmp_path: Path):
    """Frames come at their pace to a client that offers a picture alone; wrong actions and floods are answered."""
    pytest.importorskip("aiortc")
    from aiortc import RTCPeerConnection, RTCSessionDescription
    from PIL import Image

    Image.fromarray(np.zeros((SIZE, SIZE, 3), np.uint8)).save(tmp_path / "place-1.png")

    async def script() -> None:
        async with serving() as (kit, client):
            faces, events, stamps = as_world(kit, tmp_path), list[dict[str, Any]](), list[int]()
            listed = await (await client.get("/v1/characters")).json()
            assert listed["sound"] is False and [entry["name"] for entry in listed["characters"]] == ["Place 1"]
            session = await (await client.post("/v1/sessions", json={})).json()
            assert session["controls"]["actions"][0]["kind"] == "discrete"
            connection = RTCPeerConnection()
            channel = connection.createDataChannel("events")
            channel.on("message", lambda text: events.append(json.loads(text)))
            connection.addTransceiver("video", direction="recvonly")
            tasks = []

            async def look(track: Any) -> None:
                while True:
                    stamps.append((await track.recv()).pts)

            connection.on("track", lambda track: tasks.append(asyncio.create_task(look(track))))
            await connection.setLocalDescription(await connection.createOffer())
            answer = await client.post(
                f"/v1/sessions/{session['id']}/offer", json={"sdp": connection.localDescription.sdp},
                headers={"Authorization": f"Bearer {session['session_key']}"},
            )  # fmt: skip
            sdp = (await answer.json())["sdp"]
            await connection.setRemoteDescription(RTCSessionDescription(sdp, "answer"))
            await came(lambda: len(stamps) > 12 and channel.readyState == "open")
            channel.send('{"type": "action.set", "action": {"forward": NaN}}')
            channel.send('{"type": "action.set", "action": {"fly": 1}}')
            for number in range(FLOOD):
                channel.send(json.dumps({"type": "action.set", "action": {"turn_left": 1}, "id": number}))
            receipts = lambda: [event for event in events if event["type"] == "receipt"]  # noqa: E731
            await came(lambda: len(receipts()) == 2 + FLOOD)
            refused = [one["reason"] for one in receipts() if not one["accepted"]]
            assert "must have finite numbers" in refused[0] and any("fly must be one of" in why for why in refused)
            assert {one["id"] for one in receipts() if "id" in one} == set(range(FLOOD))
            assert any("Too many requests" in why for why in refused)
            assert len(faces[0].changes) == CHANGES - 1  # "fly" counts as well
            before = len(stamps)
            await came(lambda: len(stamps) > before + 24)
            assert faces[0].numbers["turn_left"] == 1
            steps = np.diff(stamps)
            assert (np.abs(steps - 3750 * np.round(steps / 3750)) <= 1).all() and steps.max() <= 3750 * GAP
            for task in tasks:
                task.cancel()
            await close_connection(connection)

    asyncio.run(script())
