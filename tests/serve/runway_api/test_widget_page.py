"""The widget on a page of another origin, in a browser: it opens, talks, acts on the page, and ends."""

import asyncio
import contextlib
import shutil
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
from aiohttp import web

from serve.bench.browser import BROWSERS, open_browser
from serve.store.keys import Limits, add_key
from tests.serve.live.server_kit import DEADLINE_S
from tests.serve.runway_api.api_kit import AVATAR, Served, running, site
from tests.serve.runway_api.test_session_tools import calls_of, speaking_model

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not any(map(shutil.which, BROWSERS)), reason="no Chromium: apt-get install chromium"),
]

NAME, GREETING = "<b>Vera</b>", "Hi <img src=x onerror=alert(1)>!"
TARGET = {"name": "target", "description": "Which.", "type": "string", "enum": ["buy", "sold", "price"]}
TOOLS = [
    {"type": "client_event", "name": name, "description": name, "parameters": [TARGET]}
    for name in ("click", "highlight")
]
# With styles that a widget without a root of its own would suffer from, and would spoil.
PAGE = """<!doctype html><meta charset=utf-8><title>Shop</title><link rel=stylesheet href=/style.css>
<button id=buy>Buy</button><button id=sold disabled>Sold</button>
<p class="panel captions" data-avatar-target=price>9.90</p>
<script src="%s/widget.js" data-key="%s" data-avatar="%s"></script>"""
STYLE = """* { font-size: 50px !important; color: rgb(255, 0, 0); } button { display: none; letter-spacing: 9px; }
#buy { display: block; } .panel { color: rgb(0, 0, 255); }"""
WATCH = """window.seen = { microphones: 0, frames: 0, clicks: [], events: [] };
const ask = navigator.mediaDevices.getUserMedia.bind(navigator.mediaDevices);
navigator.mediaDevices.getUserMedia = (wishes) => { window.seen.microphones++; return ask(wishes); };
addEventListener("avatar-event", ({ detail }) => window.seen.events.push(detail.tool));
addEventListener("click", ({ target }) => window.seen.clicks.push(target.id));
window.watch = (video) => video.requestVideoFrameCallback(() => { window.seen.frames++; window.watch(video); });"""
ROOT = "document.querySelector('gwm-avatar')?.shadowRoot"


def part(name: str) -> str:
    return f"{ROOT}?.querySelector('{name}')"


async def until(page: Any, condition: str) -> None:
    for _ in range(round(10 * DEADLINE_S)):
        if await page.evaluate(f"!!({condition})"):
            return
        await asyncio.sleep(0.1)
    seen = await page.evaluate(f"document.body.innerText + ({part('.frame')}?.innerText ?? '')")
    raise AssertionError(f"{condition} did not come true; the page says: {seen}")


async def state(page: Any, name: str) -> None:
    await until(page, f"{part('.frame')}?.dataset.state === '{name}'")


@contextlib.asynccontextmanager
async def shop(one: Served, key: Callable[[str], str], avatar: str) -> AsyncIterator[tuple[str, str]]:
    """A site whose policy allows this server and nothing else: its origin and the key on its page."""
    home, made = str(one.http.make_url("/")).rstrip("/"), ""

    async def answer(request: web.BaseRequest) -> web.Response:
        if request.path == "/style.css":
            return web.Response(text=STYLE, content_type="text/css")
        policy = f"default-src 'none'; style-src 'self'; script-src {home}; connect-src {home}; img-src {home}"
        text = PAGE % (home, made, avatar)
        return web.Response(text=text, content_type="text/html", headers={"Content-Security-Policy": policy})

    async with site(answer) as origin:
        made = key(origin)
        yield origin, made


def key_for(one: Served, origin: str, **limits: int) -> str:
    return one.store.do(lambda db: add_key(db, "shop", Limits(origins=[origin], **limits)))


@contextlib.asynccontextmanager
async def visited(browser: Any, origin: str, asked: list[str], said: list[str]) -> AsyncIterator[Any]:
    context = await browser.new_context(viewport={"width": 1000, "height": 760})
    page = await context.new_page()
    page.on("request", lambda request: asked.append(request.url))
    page.on("console", lambda message: said.append(message.text))
    page.on("pageerror", lambda error: said.append(str(error)))
    await page.add_init_script(WATCH)
    await page.goto(origin)
    try:
        yield page
    finally:
        await context.close()


def in_a_browser(script: Callable[[Served, Any], Awaitable[None]], folder: Path, *, capacity: int = 2) -> None:
    pytest.importorskip("playwright")
    microphone = folder / "silence.wav"
    soundfile.write(microphone, np.zeros(48_000), 48_000)

    async def run() -> None:
        async with open_browser(microphone) as browser, running(folder, capacity=capacity) as one:
            async with speaking_model(one):
                await script(one, browser)

    asyncio.run(run())


async def vera(one: Served) -> str:
    made = await one.ask("POST", "/avatars", AVATAR | {"name": NAME, "startScript": GREETING, "tools": TOOLS})
    await one.until(f"/avatars/{made['id']}", "READY")
    return made["id"]


async def write(page: Any, text: str) -> None:
    await page.fill("gwm-avatar .write input", text)
    await page.keyboard.press("Enter")


def test_it_opens_talks_acts_and_ends_on_a_page_of_another_origin(tmp_path: Path):
    async def script(one: Served, browser: Any) -> None:
        asked: list[str] = []
        said: list[str] = []
        async with shop(one, lambda origin: key_for(one, origin), await vera(one)) as (origin, _):
            async with visited(browser, origin, asked, said) as page:
                await until(page, f"{part('h2')}?.textContent === {NAME!r}")
                assert await page.evaluate(part("h2") + ".children.length") == 0
                await nothing_leaks(page)
                await by_keyboard(page)
                assert await page.evaluate("seen.microphones") == 0  # until the click
                await page.keyboard.press("Enter")
                await state(page, "listening")
                assert await page.evaluate("seen.microphones") == 1
                await page.evaluate(f"watch({part('video')})")
                await until(page, "seen.frames > 24")
                await until(page, f"{part('.captions')}.textContent.includes({GREETING!r})")
                assert await page.evaluate(part(".captions img")) is None  # text, and no element
                await actions(page)
                await page.click("gwm-avatar .danger")
                await state(page, "ended")
                (talked,) = (await one.ask("GET", "/avatar_conversations"))["data"]
                path = f"/realtime_sessions/{talked['id']}"
                await one.until(path, "COMPLETED")
                assert [call["error"] is None for call in await calls_of(one, path)] == [True] * 3
                await page.click("gwm-avatar .quiet")  # again, without a microphone
                await state(page, "listening")
                assert await page.evaluate("seen.microphones") == 1
                await page.keyboard.press("Escape")
                await until(page, f"{ROOT}.activeElement === {part('.launcher')} && {part('.panel')}.hidden")
            home = str(one.http.make_url("/"))
            assert all(url.startswith((f"{origin}/", home)) for url in asked) and said == []

    in_a_browser(script, tmp_path)


async def nothing_leaks(page: Any) -> None:
    """Neither styles of the page into the widget, nor of the widget into the page."""
    style = f"getComputedStyle({part('h2')})"
    assert await page.evaluate(f"[{style}.fontSize, {style}.color === 'rgb(255, 0, 0)']") == ["16px", False]
    launcher = f"getComputedStyle({part('.launcher')})"
    assert await page.evaluate(f"[{launcher}.display === 'none', {launcher}.letterSpacing]") == [False, "normal"]
    price = "getComputedStyle(document.querySelector('p'))"
    assert await page.evaluate(f"[{price}.color, {price}.display, {price}.borderRadius]") == [
        "rgb(0, 0, 255)",
        "block",
        "0px",
    ]
    assert await page.evaluate("[document.styleSheets.length, document.adoptedStyleSheets.length]") == [1, 0]


async def by_keyboard(page: Any) -> None:
    """To the launcher, into the panel; and on a phone all of it is on the screen."""
    for _ in range(5):
        await page.keyboard.press("Tab")
        if await page.evaluate(f"{ROOT}.activeElement === {part('.launcher')}"):
            break
    await page.keyboard.press("Enter")
    await until(page, f"{ROOT}.activeElement === {part('.primary')}")
    await page.set_viewport_size({"width": 390, "height": 664})
    box = await page.locator("gwm-avatar .panel").bounding_box()
    assert box["x"] >= 0 and box["x"] + box["width"] <= 390 and box["y"] >= 0 and box["y"] + box["height"] <= 664
    assert await page.evaluate("document.documentElement.scrollWidth") <= 390
    await page.set_viewport_size({"width": 1000, "height": 760})


async def actions(page: Any) -> None:
    """Of the tools that the avatar has, on elements that are named; nothing else is done."""
    await page.evaluate("seen.clicks.length = 0")
    await write(page, 'click {"target": "buy"}')
    await until(page, "seen.clicks.includes('buy')")
    await write(page, 'highlight {"target": "price"}')
    await until(page, "document.querySelector('p').hasAttribute('data-avatar-highlighted')")
    await until(page, "!document.querySelector('p').hasAttribute('data-avatar-highlighted')")
    await write(page, 'click {"target": "sold"}')  # nobody can click it
    await until(page, "seen.events.length === 3")
    await write(page, 'scroll_to {"target": "buy"}')  # which the avatar does not have
    await until(page, f"{part('.notice')}.textContent.includes('a tool that does not exist')")
    assert await page.evaluate("seen.clicks.filter(name => name)") == ["buy"]
    assert await page.evaluate("seen.events") == ["click", "highlight", "click"]


def test_a_page_of_a_wrong_origin_opens_nothing_and_tells_its_owner_why(tmp_path: Path):
    async def script(one: Served, browser: Any) -> None:
        elsewhere, said = "https://elsewhere.example", []
        async with shop(one, lambda origin: key_for(one, elsewhere), "noa") as (origin, _):
            async with visited(browser, origin, [], said) as page:
                await page.click("gwm-avatar .launcher")
                cannot = "This character cannot be talked to from this page."
                await until(page, f"{part('.message')}.textContent === {cannot!r}")
                assert any(f"This key is not for pages of {origin}." in line for line in said)
                await page.click("gwm-avatar .primary")
                await state(page, "error")
                assert not one.kit.admission.sessions

    in_a_browser(script, tmp_path)


def test_who_comes_when_all_places_are_taken_waits_and_is_let_in_or_gives_up(tmp_path: Path):
    async def script(one: Served, browser: Any) -> None:
        async with shop(one, lambda origin: key_for(one, origin, max_sessions=1), "noa") as (origin, _):
            async with visited(browser, origin, [], []) as page:
                one.kit.capacity = 0
                await page.click("gwm-avatar .launcher")
                await page.click("gwm-avatar .primary")
                await state(page, "queued")
                assert "as soon as one is free" in await page.text_content("gwm-avatar .message")
                await page.click("gwm-avatar .cover >> text=Cancel")
                await state(page, "idle")
                await asyncio.sleep(2.5)  # it looks once more, and cancels; the key has one session at a time
                await page.click("gwm-avatar .primary")
                await state(page, "queued")
                one.kit.capacity = 1
                await state(page, "listening")
                (session,) = one.kit.admission.sessions.values()
                await session.close("Closing time.")
                await state(page, "ended")
                assert await page.text_content("gwm-avatar .message") == "Closing time."

    in_a_browser(script, tmp_path)


def test_a_tool_acts_only_where_it_was_declared_and_a_visitor_could(tmp_path: Path):
    async def script(one: Served, browser: Any) -> None:
        async with visited(browser, str(one.http.make_url("/")), [], []) as page:
            await page.evaluate("import('/widget/actions.js').then((module) => { window.act = module.act; })")
            await page.evaluate("document.body.append(Object.assign(document.createElement('p'), { id: 'odd' }))")
            tools = "['click', 'highlight', 'scroll_to']"
            for does, call in (
                (True, f"'click', {{ target: 'odd' }}, {tools}"),
                (True, f"'scroll_to', {{ target: 'odd' }}, {tools}"),
                (False, "'click', { target: 'odd' }, ['highlight']"),  # not declared
                (False, "'constructor', { target: 'odd' }, ['constructor']"),
                (False, f"'click', {{ target: 'leave' }}, {tools}"),  # not shown
                (False, f"'click', {{ target: '\"]' }}, {tools}"),
                (False, f"'highlight', {{}}, {tools}"),
                (False, f"'highlight', null, {tools}"),
            ):
                assert await page.evaluate(f"act({call})") is does, call

    in_a_browser(script, tmp_path)
