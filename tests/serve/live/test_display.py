"""A tab that is shared by the browser's own getDisplayMedia: its text is read, every second and on request."""

import asyncio
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile

from serve.bench.browser import BROWSERS, WATCH, open_browser
from serve.live.vision.pictures import SOURCES
from serve.live.vision.reader import Reader
from serve.live.vision.sight import Vision
from tests.serve.live.server_kit import GREETING, serving
from tests.serve.live.test_page import until

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not any(map(shutil.which, BROWSERS)), reason="no Chromium: apt-get install chromium"),
]
TITLE = "Shown"
WORD = "KUMQUAT"
SHOWN = f"<title>{TITLE}</title><body style='background: white'><h1 style='font: bold 90px sans-serif'>{WORD}</h1>"
SLOW = """{
  const play = HTMLVideoElement.prototype.play;
  HTMLVideoElement.prototype.play = async function () {
    await new Promise((resolve) => setTimeout(resolve, 1000));
    return play.call(this);
  };
  const bytes = Blob.prototype.arrayBuffer;
  Blob.prototype.arrayBuffer = async function () {
    await new Promise((resolve) => setTimeout(resolve, 900));
    return bytes.call(this);
  };
}"""
CAPTIONS = "document.getElementById('captions').textContent"


async def shared(microphone: Path) -> None:
    reader = Reader()
    try:
        async with open_browser(microphone, shares=TITLE) as browser, serving() as (kit, client):
            home = str(client.make_url("/")).rstrip("/")
            context = await browser.new_context(
                viewport={"width": 1280, "height": 720}, permissions=["microphone", "camera"]
            )
            other = await context.new_page()
            await other.set_content(SHOWN)
            kit.vision = Vision(SOURCES, reader)
            await talked(await context.new_page(), home)
            kit.vision = replace(kit.vision, mode="on_request")
            await talked(await context.new_page(), home)
            await context.close()
    finally:
        reader.close()


async def talked(page: Any, home: str) -> None:
    """Until the word on the other tab was said, though pictures are late; what is seen is shown all the time,
    and nothing after it is hidden."""
    await page.add_init_script(path=WATCH)
    await page.add_init_script(SLOW)
    await page.goto(home)
    await page.click("#start")
    await until(page, f"{CAPTIONS}.includes('{GREETING}')")
    await page.click("#screen")
    await until(
        page, "!document.getElementById('seeing').hidden && document.getElementById('screen').ariaPressed === 'true'"
    )
    label = "window.seen.events.find((event) => event.type === 'vision').mode"
    on_request = await page.evaluate(label) == "on_request"
    said = await page.text_content("#seeing")
    assert "fallback" in said and ("when you ask" in said) == on_request
    if not on_request:
        await until(page, f"document.getElementById('read').textContent.includes('{WORD}')")
    await page.fill("#words", "What is on my screen?")
    await page.press("#words", "Enter")
    await until(page, f"{CAPTIONS}.includes('On your screen I read: {WORD}')")
    looks = await page.evaluate("window.seen.events.filter((event) => event.type === 'vision.look').length")
    assert looks == on_request
    await page.click("#screen")
    await until(page, "document.getElementById('seeing').hidden")
    await page.wait_for_timeout(1_000)  # for a picture that was on its way
    await page.fill("#words", "What is on my screen?")
    await page.press("#words", "Enter")
    await until(page, f"{CAPTIONS}.includes('I do not see your screen.')")
    await page.close()


def test_a_word_on_a_tab_that_is_really_shared_is_read(tmp_path: Path):
    pytest.importorskip("playwright")
    pytest.importorskip("rapidocr")
    microphone = tmp_path / "silence.wav"
    soundfile.write(microphone, np.zeros(48_000), 48_000)
    asyncio.run(shared(microphone))
