"""A headless Chromium at the page of a live character, with a recording as its microphone."""

import asyncio
import contextlib
import shutil
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

from gwm.optional import optional_module

BROWSERS = ("chromium", "chromium-browser", "google-chrome")
COMMAND = "pip install playwright==1.65.2 && apt-get install chromium"
WATCH = Path(__file__).with_name("watch.js")
START_TIMEOUT_S = 180.0


def browser_path() -> str:
    """Path of this machine's Chromium.

    Raises:
        RuntimeError: there is none.
    """
    found = next(filter(None, map(shutil.which, BROWSERS)), None)
    if not found:
        raise RuntimeError(f"none of {BROWSERS} is installed. On Debian: apt-get install chromium")
    return found


@contextlib.asynccontextmanager
async def open_browser(microphone: Path, *, shares: str | None = None) -> AsyncIterator[Any]:
    """A browser with the recording `microphone` as its microphone; closed at the end.

    shares: title of the tab that a page is given when it asks for a screen; pages are then given microphone and camera
        by the permissions of their context alone. None: they are given both, and as a screen a moving pattern.

    Raises:
        MissingPackageError, RuntimeError: playwright or a browser is not installed.
    """
    playwright = optional_module("playwright.async_api", COMMAND)
    flags = [
        "--no-sandbox",  # the page is our own
        # The first would answer for every kind of media, and with a pattern for a screen.
        f"--auto-select-tab-capture-source-by-title={shares}" if shares else "--use-fake-ui-for-media-stream",
        "--use-fake-device-for-media-stream",
        "--autoplay-policy=no-user-gesture-required",
        f"--use-file-for-fake-audio-capture={microphone}",
    ]
    async with playwright.async_playwright() as library:
        browser = await library.chromium.launch(executable_path=browser_path(), args=flags)
        try:
            yield browser
        finally:
            await browser.close()


async def open_page(browser: Any, url: str, *, bypass_policy: bool = False) -> Any:
    """The page, watched, as soon as somebody can be chosen.

    bypass_policy: let the watcher's `detect` load its worklet, which the page's content security policy forbids.
    """
    context = await browser.new_context(viewport={"width": 1000, "height": 720}, bypass_csp=bypass_policy)
    page = await context.new_page()
    await page.add_init_script(path=WATCH)
    await page.goto(f"{url}/?plain")
    await page.wait_for_selector("#characters input:checked + .card")
    return page


async def start_talking(page: Any) -> None:
    """Press start, and wait for a second of picture.

    Raises:
        TimeoutError: it does not come.
    """
    await page.click("#start")
    async with asyncio.timeout(START_TIMEOUT_S):
        while await page.evaluate("window.seen.times.length") < 24:
            await asyncio.sleep(0.1)


async def knock(browser: Any, url: str) -> dict[str, Any]:
    """Press start on a further page, and return what the visitor sees: status, Retry-After, and the message on the
    page."""
    page = await open_page(browser, url)
    async with page.expect_response("**/v1/sessions") as waiting:
        await page.click("#start")
    response = await waiting.value
    answer: dict[str, Any] = {"status": response.status, "retry_after": response.headers.get("retry-after")}
    if not response.ok:
        await page.wait_for_selector("#error:not([hidden])")
        answer["message"] = await page.text_content("#error")
    await page.context.close()
    return answer
