"""The page on a screen as small as a phone's, by keyboard alone, with a face that needs no model."""

import asyncio
import io
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
from PIL import Image

from serve.bench.browser import BROWSERS, open_browser, open_page
from serve.live.avatar.changes import Act, Rewind, SetKeyframe, SetPrompt
from serve.live.http.ice import IceServers
from serve.live.speech.services import small_talk
from serve.samples import sample_path
from tests.serve.live.http.test_conversation import until as holds
from tests.serve.live.http.test_ice import SECRET, TURN, coturn
from tests.serve.live.level_face import LevelFace
from tests.serve.live.server_kit import DEADLINE_S, GREETING, serving

PHONES = ((390, 844), (360, 640))
TABS = 20

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not any(map(shutil.which, BROWSERS)), reason="no Chromium: apt-get install chromium"),
]


async def until(page: Any, condition: str) -> None:
    for _ in range(round(10 * DEADLINE_S)):
        if await page.evaluate(condition):
            return
        await asyncio.sleep(0.1)
    seen = await page.evaluate("document.getElementById('app').innerText")
    raise AssertionError(f"{condition} did not come true; the page says: {seen}")


async def tab_to(page: Any, name: str) -> None:
    """Press Tab until the element has the focus."""
    for _ in range(TABS):
        if await page.evaluate("document.activeElement.id || document.activeElement.name") == name:
            return
        await page.keyboard.press("Tab")
    raise AssertionError(f"{name} is not reached by {TABS} presses of Tab")


async def fits(page: Any, *names: str) -> None:
    """Nothing is wider than the screen, and these lie whole within it."""
    for width, height in PHONES:
        await page.set_viewport_size({"width": width, "height": height})
        assert await page.evaluate("document.documentElement.scrollWidth") <= width
        for name in names:
            box = await page.locator(f"#{name}").bounding_box()
            where = f"#{name} at {width} x {height}: {box}"
            assert box["x"] >= 0 and box["x"] + box["width"] <= width, where
            assert box["y"] >= 0 and box["y"] + box["height"] <= height, where


async def visit(microphone: Path) -> None:
    async with open_browser(microphone) as browser, serving() as (kit, client):
        page = await open_page(browser, str(client.make_url("/")).rstrip("/"))
        await upload(page)
        await fits(page, "start")
        await tab_to(page, "start")
        await page.keyboard.press("Enter")
        await until(page, "window.seen.times.length > 12 && document.activeElement.id === 'mic'")
        await talk(page)
        await switches(page)
        await changes(page, kit.faces[-1])
        await page.keyboard.press("Escape")
        await until(page, "!document.getElementById('choose').hidden && document.activeElement.id === 'start'")
        assert await page.text_content("#status span") == "Choose somebody to talk to"
        assert await page.evaluate(OFFERS) == [[True] * 3, [False] * 3]
        await page.context.close()


async def upload(page: Any) -> None:
    buffer = io.BytesIO()
    Image.new("RGB", (300, 200), (10, 120, 200)).save(buffer, "PNG")
    for data, place in ((b"not a picture", "#error"), (buffer.getvalue(), "#note")):
        await page.set_input_files("#file", {"name": "me.png", "mimeType": "image/png", "buffer": data})
        await until(page, f"/picture/.test(document.querySelector('{place}').textContent)")
    assert await page.get_attribute("#characters label:last-child img", "alt") == "Your picture"


async def talk(page: Any) -> None:
    """Both sides are in the captions, whatever of the greeting was heard before."""
    await until(page, f"document.getElementById('captions').textContent.includes('{GREETING}')")
    await tab_to(page, "words")
    await page.keyboard.type("What is your name?")
    await page.keyboard.press("Enter")
    answer = small_talk("What is your name?", name="Noa")
    captions = "[...document.querySelectorAll('#captions li')].map(line => `${line.className}: ${line.textContent}`)"
    await until(page, f"{captions}.includes('character: {answer}')")
    assert "user: What is your name?" in await page.evaluate(captions)
    await interrupted(page, captions)
    await page.keyboard.press("Tab")  # out of the text, where letters are letters
    assert await page.is_hidden("#controls")  # until they are asked for: what is said is seen in their place
    await fits(page, "face", "captions", "words", "mic", "camera", "leave")


async def interrupted(page: Any, captions: str) -> None:
    """What is heard of a story after the visitor has written something else stays in the story's line."""
    await page.keyboard.type("Tell me a story.")
    await page.keyboard.press("Enter")
    await until(page, f"{captions}.at(-1).startsWith('character: Let me tell you')")
    await page.keyboard.type("Goodbye.")
    await page.keyboard.press("Enter")
    await until(page, f"{captions}.at(-1) === 'character: {small_talk('Goodbye.', name='Noa')}'")
    story, said = (await page.evaluate(captions))[-3:-1]
    assert story.startswith("character cut: Let me tell you") and said == "user: Goodbye."
    assert await page.evaluate(LATE_WORDS) == [
        "character cut: Once there was a",
        "user: Stop.",
        "character: Yes. I do.",
    ]


# Words that come late: before and after the page is told of the interruption. Then an answer in two parts.
LATE_WORDS = """(async () => {
  const { Captions } = await import("/captions.js"), list = document.createElement("ul"), captions = new Captions(list);
  captions.add("character", "Once there");
  captions.add("user", "Stop.");
  captions.add("character", "was");
  captions.cut();
  captions.add("character", "a");
  captions.answer();
  captions.add("character", "Yes.");
  captions.answer();
  captions.add("character", "I do.");
  return [...list.children].map((line) => `${line.className}: ${line.textContent}`);
})()"""


async def switches(page: Any) -> None:
    await page.keyboard.press("n")
    await until(page, "/^[1-9]\\d* fps$/.test(document.getElementById('n-fps').textContent)")
    await until(page, "/ms$/.test(document.getElementById('n-lead').textContent)")
    pressed = "['mic', 'camera'].map(name => document.getElementById(name).ariaPressed).join()"
    assert await page.evaluate(pressed) == "true,false"
    for key in "mv":
        await page.keyboard.press(key)
    await until(page, f"{pressed} === 'false,true' && document.getElementById('self').videoWidth > 0")


async def changes(page: Any, face: LevelFace) -> None:
    """A prompt, an action and steps back, each by keyboard: the face gets what was asked for, the page its receipt."""
    await page.keyboard.press("c")
    await tab_to(page, "prompt")
    await page.keyboard.type("a storm")
    await page.keyboard.press("Enter")
    await until(page, receipt("prompt.set", "Holds from \\d+\\.\\d\\d s"))
    await tab_to(page, "forward")
    for _ in range(6):
        await page.keyboard.press("ArrowRight")
    await holds(lambda: face.changes[0] == SetPrompt("a storm") and face.changes[-1] == Act({"forward": 0.3}))
    await until(page, receipt("action.set", "Holds from"))
    await keyframe(page, face)
    await tab_to(page, "seconds")
    await page.keyboard.press("Home")  # one chunk
    await page.keyboard.press("Enter")
    await until(page, receipt("stream.rewind", "Back at \\d+\\.\\d\\d s"))
    await page.keyboard.press("End")  # more than this face can
    await page.keyboard.press("Enter")
    await until(page, receipt("stream.rewind", "must be at most 3"))
    await tab_to(page, "release")
    await page.keyboard.press("Enter")
    await holds(lambda: face.changes[-2:] == [Rewind(1), Act(None)])
    assert await page.input_value("#sliders input") == "0"
    await fits(page, "face", "controls", "words", "mic", "controls-switch", "leave")
    await page.keyboard.press("c")
    await fits(page, "captions")


async def keyframe(page: Any, face: LevelFace) -> None:
    """A picture is uploaded and then set; one without a face is not."""
    plain = io.BytesIO()
    Image.new("RGB", (300, 200), (10, 120, 200)).save(plain, "PNG")
    await tab_to(page, "in-s")
    await page.keyboard.type("1.5")
    for picture, said in (
        (None, "Choose a picture"),
        ({"name": "plain.png", "mimeType": "image/png", "buffer": plain.getvalue()}, "No face was found"),
        (str(sample_path("portrait")), "Seen at \\d+\\.\\d\\d s"),
    ):
        if picture is not None:
            await page.set_input_files("#keyframe", picture)
        await page.keyboard.press("Enter")
        await until(page, receipt("keyframe.set", said))
    assert [(each.in_s, bool(each.image)) for each in face.changes if isinstance(each, SetKeyframe)] == [(1.5, True)]


# Whether a session without keyframes hides their form, and one that has nothing else shows it and the switch.
OFFERS = """(async () => {
  const { offer } = await import("/controls.js");
  const none = { prompt: false, actions: [], code: [], rewind_chunks: 0, chunk_s: 1 };
  return [false, true].map((keyframes) => {
    offer({ ...none, keyframes }, () => true, { opened: true });
    return ["keyframe-form", "controls", "controls-switch"].map((id) => document.getElementById(id).hidden);
  });
})()"""


def receipt(kind: str, pattern: str) -> str:
    return f"/{pattern}/.test(document.querySelector('output[data-of=\"{kind}\"]').textContent)"


def test_everything_is_reached_by_keyboard_and_fits_a_phone(tmp_path: Path):
    pytest.importorskip("playwright")
    microphone = tmp_path / "silence.wav"
    soundfile.write(microphone, np.zeros(48_000), 48_000)
    asyncio.run(visit(microphone))


@pytest.mark.skipif(TURN is None, reason="no coturn: apt-get install coturn")
def test_a_page_connects_with_the_servers_that_it_is_given(tmp_path: Path):
    pytest.importorskip("playwright")
    microphone = tmp_path / "silence.wav"
    soundfile.write(microphone, np.zeros(48_000), 48_000)

    async def run(relay: str) -> list[str]:
        async with open_browser(microphone) as browser, serving() as (kit, client):
            kit.ice_servers = IceServers([relay], SECRET)
            page = await open_page(browser, str(client.make_url("/")).rstrip("/"))
            await page.click("#start")
            await until(page, "window.seen.times.length > 12")
            servers = await page.evaluate("window.seen.peer.getConfiguration().iceServers.map(one => one.urls).flat()")
            await page.context.close()
        return servers

    with coturn(tmp_path) as relay:
        assert asyncio.run(run(relay)) == [relay]


# What the page finds, and what it must say of it.
CAUSES = {
    "new DOMException('Permission denied', 'NotAllowedError')": "The microphone is blocked for this page",
    "new DOMException('Permission denied by system', 'NotAllowedError')": "The system does not give the browser",
    "new DOMException('Permission dismissed', 'NotAllowedError')": "closed without an answer",
    "new DOMException('Requested device not found', 'NotFoundError')": "No microphone was found. Connect one",
    "new DOMException('Could not start audio source', 'NotReadableError')": "in use by another program",
    "new DOMException('', 'OverconstrainedError')": "Choose another one",
    "new DOMException('Starting failed', 'AbortError')": "did not start. Try again",
    "new DOMException('', 'SecurityError')": "the browser's settings forbid it",
    "new DOMException('odd', 'OddError')": "cannot be used: OddError, odd",
}


async def message(page: Any) -> str:
    await page.click("#start")
    await until(page, "!document.getElementById('error').hidden && !document.getElementById('start').disabled")
    assert await page.text_content("#status span") == "Choose somebody to talk to"
    return await page.text_content("#error")


async def causes(microphone: Path) -> dict[str, str]:
    """What the page says when each thing goes wrong."""
    seen = {}
    async with open_browser(microphone) as browser, serving(capacity=1) as (kit, client):
        page = await open_page(browser, str(client.make_url("/")).rstrip("/"))
        await page.evaluate("void (window.getIt = navigator.mediaDevices.getUserMedia.bind(navigator.mediaDevices))")
        for error in CAUSES:
            state = "prompt" if "dismissed" in error else "denied"
            await page.evaluate(f"void (navigator.permissions.query = async () => ({{ state: '{state}' }}))")
            await page.evaluate(f"void (navigator.mediaDevices.getUserMedia = async () => {{ throw {error}; }})")
            seen[error] = await message(page)
        await page.evaluate(
            "void (navigator.mediaDevices.getUserMedia = async (w) => (window.given = await window.getIt(w)))"
        )
        failures: dict[str, Callable[[Any], Any]] = {
            "network": lambda route: route.abort(),
            "proxy": lambda route: route.fulfill(status=502, body="<html>Bad Gateway"),
        }
        for name, failure in failures.items():
            await page.route("**/v1/sessions", failure)
            seen[name] = await message(page)
            await page.unroute("**/v1/sessions")
        seen["microphone"] = await page.evaluate("window.given.getTracks()[0].readyState")
        kit.admission.draining = True
        seen["draining"] = await message(page)
        kit.admission.draining, kit.capacity = False, 0
        seen["full"] = await message(page)
        await page.evaluate("void Object.defineProperty(navigator, 'mediaDevices', { value: undefined })")
        seen["http"] = await message(page)
        await page.context.close()
    return seen


def test_what_goes_wrong_is_told_by_its_cause(tmp_path: Path):
    pytest.importorskip("playwright")
    microphone = tmp_path / "silence.wav"
    soundfile.write(microphone, np.zeros(48_000), 48_000)
    seen = asyncio.run(causes(microphone))
    expected = CAUSES | {
        "network": "The server cannot be reached: it does not run",
        "proxy": "The server behind this address does not run (502)",
        "draining": "The server is about to restart",
        "full": "All 0 places are taken",
        "http": "only to pages from https or localhost",
    }
    assert not {name: seen[name] for name, part in expected.items() if part not in seen[name]}
    assert seen["microphone"] == "ended"  # it is not left on after a failure
