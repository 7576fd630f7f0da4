"""The studio in a browser: a character from a picture to its conversations; by keyboard, and on a phone."""

import asyncio
from pathlib import Path
from typing import Any

from tests.serve.runway_api.api_kit import AVATAR, Served, inline, picture
from tests.serve.runway_api.test_session_tools import CARD, LAMP
from tests.serve.runway_api.test_voices import recording
from tests.serve.runway_api.test_widget_page import in_a_browser, part, pytestmark, state, until, visited

__all__ = ["pytestmark"]
NAME = "<img src=x onerror=alert(1)>"
VIEWS = ("characters", "characters/new", "conversations")
# Controls that Tab should reach: of radio buttons one, and nothing that is hidden.
CONTROLS = """(() => {
  const groups = new Set();
  const every = 'a[href], button, input, select, textarea, summary, pre[tabindex]';
  return [...document.querySelectorAll(every)].filter((one) => {
    if (one.disabled || !one.checkVisibility()) return false;
    if (one.type !== 'radio') return true;
    return one.checked && !groups.has(one.name) && groups.add(one.name);
  }).map((one) => one.dataset.number = String(Math.random()));
})()"""


async def enter(page: Any, key: str) -> None:
    await page.fill("[name=key]", key)
    await page.keyboard.press("Enter")


async def go(page: Any, view: str, heading: str) -> None:
    await page.evaluate(f"location.hash = '#/{view}'")
    await until(page, f"document.querySelector('h1')?.textContent === {heading!r}")


async def confirm(page: Any) -> None:
    await page.click("dialog .danger")
    await until(page, "!document.querySelector('dialog')")


def test_a_character_is_made_changed_talked_to_read_about_and_deleted(tmp_path: Path):
    async def script(one: Served, browser: Any) -> None:
        home = str(one.http.make_url("/"))
        asked: list[str] = []
        said: list[str] = []
        async with visited(browser, f"{home}studio", asked, said) as page:
            await enter(page, one.key)
            await until(page, "document.querySelector('.empty h2')?.textContent === 'Nobody is here yet'")
            await page.click("text=Make the first one")
            await chosen_picture(page)
            await page.fill("[name=name]", NAME)
            await page.fill("[name=personality]", "Be brief.")
            await page.fill("[name=greeting]", "Hi!")
            await voices(page)
            await documents(one, page)
            await tools(page)
            await arguments(page)
            await page.check("[name=asked]")
            await page.click(".save .primary")
            await until(
                page,
                "document.querySelector('.note')?.textContent === 'This is what visitors see.'",
            )
            (made,) = (await one.ask("GET", "/avatars"))["data"]
            assert (made["name"], made["startScript"], made["status"]) == (NAME, "Hi!", "READY")
            assert made["voice"]["presetId"] == "max" and len(made["documentIds"]) == 1
            assert made["vision"] == "on_request"
            assert [tool["name"] for tool in made["tools"]] == ["click", "highlight", "order"]
            sizes, address = made["tools"][2]["parameters"]
            assert (sizes["type"], sizes["items"]) == ("array", {"type": "integer"})
            (city,) = address["properties"]
            assert (address["type"], city["name"], city["type"]) == ("object", "city", "string")
            assert made["tools"][0]["parameters"][0]["enum"] == ["buy", "hours"]
            await changed(one, page, made["id"])
            await talked(one, page)
            await go(page, f"characters/{made['id']}", "Vera")
            await page.click("fieldset .danger")
            await confirm(page)
            await until(page, "location.hash === '#/characters'")
            assert (await one.ask("GET", "/avatars"))["data"] == []
            assert await page.evaluate("sessionStorage.length + localStorage.length") == 1
            await page.click("#sign-out")
            assert await page.evaluate("sessionStorage.length") == 0 and await page.is_visible("[name=key]")
        # Chromium reports each answer of 400 itself: of the file that is no picture.
        assert [line for line in said if "400" not in line] == []
        assert all(url.startswith((home, "blob:")) for url in asked)

    in_a_browser(script, tmp_path)


async def chosen_picture(page: Any) -> None:
    """Files that cannot be used are refused with their reason; a demo portrait is taken."""
    for data, kind, why in (
        (b"no picture", "image/png", "This is not a picture that can be read."),
        (b"text", "text/plain", "me.png is no picture that can be used."),
        (b"\0" * 5_000_001, "image/png", "me.png has 5.0 MB, must have at most 5 MB."),
    ):
        await page.set_input_files("[aria-label='Picture file']", {"name": "me.png", "mimeType": kind, "buffer": data})
        await until(page, f"document.querySelector('.picture .failure')?.textContent?.includes({why!r})")
    await page.click(".save .primary")  # of the form's own rules first
    await page.click("[aria-label='Begin with the picture of Noa']")
    await until(page, "document.querySelector('.note')?.textContent?.startsWith('No face was found')")
    assert await page.is_hidden(".picture .failure")


async def voices(page: Any) -> None:
    async with page.expect_response("**/v1/voices/preview") as answered:
        await page.click("[aria-label='Play Max']")
    assert (await answered.value).ok
    await until(page, "document.querySelector('[aria-label=\"Play Max\"]')?.ariaPressed === 'true'")
    await until(page, "document.querySelector('[aria-label=\"Play Max\"]')?.ariaPressed === 'false'")  # it ends
    await page.click("text=Design a voice")
    await page.fill("dialog input", "Old man")
    await page.fill("dialog textarea", "A calm old man with a deep voice")
    await page.click("dialog .primary")
    await until(page, "document.querySelector('.voice :checked')?.dataset.custom === 'true'")
    await page.check("input[value=max]")
    await recorded(page)
    await page.check("input[value=max]")


async def recorded(page: Any) -> None:
    """A voice of a recording, for which the statement of rights must be ticked."""
    await page.click("text=From a recording")
    await page.fill("dialog input:not([type])", "Somebody")
    wav = {"name": "me.wav", "mimeType": "audio/wav", "buffer": recording(150)}
    await page.set_input_files("dialog input[type=file]", wav)
    await page.click("dialog .primary")
    assert await page.is_visible("dialog") and not await page.is_checked("dialog [type=checkbox]")
    await page.check("dialog [type=checkbox]")
    await page.click("dialog .primary")
    await until(
        page, "document.querySelector('.voice :checked ~ span small')?.title.startsWith('Nearest built-in voice')"
    )


async def documents(one: Served, page: Any) -> None:
    files = [
        {"name": "hours.md", "mimeType": "text/markdown", "buffer": b"# Hours\nWe open at nine."},
        {"name": "odd.txt", "mimeType": "text/plain", "buffer": b"a\0b"},
    ]
    await page.set_input_files("[aria-label='Document files']", files)
    await until(page, "document.querySelector('[aria-label=\"Change hours.md\"]')")
    await page.wait_for_selector("text=odd.txt is no text.")
    await page.click("[aria-label='Change hours.md']")
    await page.fill("dialog textarea", "We open at ten.")
    await page.click("dialog .primary")
    await until(page, "!document.querySelector('dialog')")
    (kept,) = (await one.ask("GET", "/documents"))["data"]
    assert (await one.ask("GET", f"/documents/{kept['id']}"))["content"] == "We open at ten."


async def tools(page: Any) -> None:
    await page.click("text=Page actions")
    await page.fill("dialog textarea", "buy\nhours")
    await page.uncheck("dialog input[value=scroll_to]")
    await page.click("dialog .primary")
    await page.click("text=Own tool")
    await page.fill("dialog [placeholder=show_product]", "click")
    await page.fill("dialog textarea", "Again.")
    await page.click("dialog .primary")
    await until(page, "document.querySelector('dialog .failure')?.textContent?.includes('named click already')")
    await page.keyboard.press("Escape")


async def arguments(page: Any) -> None:
    """A tool with a list and a group of fields; they are there when it is opened again."""
    await page.click("text=Own tool")
    await page.select_option("dialog select", "backend_rpc")
    await page.fill("dialog [placeholder=show_product]", "order")
    await page.fill("dialog textarea", "Orders.")
    for number, (name, kind) in enumerate((("sizes", "array"), ("address", "object"))):
        await page.click("dialog >> text=Argument")
        row = page.locator("dialog .parameter").nth(number)
        await row.locator("[aria-label='Name of the argument']").first.fill(name)
        await row.locator("[aria-label='Description of the argument']").first.fill("Which.")
        await row.locator("[aria-label='Type of the argument']").first.select_option(kind)
    await page.select_option("dialog [aria-label='Type of what is in the list'] >> nth=0", "integer")
    await page.click("dialog .group:visible >> text=Field")
    field = page.locator("dialog .group .parameter").last
    await field.locator("[aria-label='Name of the argument']").fill("city")
    await field.locator("[aria-label='Description of the argument']").fill("Where.")
    await page.click("dialog .primary")
    await page.click("[aria-label='Change order']")
    assert await page.input_value("dialog .group .parameter [aria-label='Name of the argument']") == "city"
    await page.click("dialog .primary")


async def changed(one: Served, page: Any, avatar: str) -> None:
    """A name that looks like HTML is text everywhere; a change is kept."""
    assert await page.text_content("h1") == NAME and await page.locator("h1 img").count() == 0
    await page.fill("[name=name]", "Vera")
    assert await page.is_checked("[name=sees]") and await page.is_checked("[name=asked]")
    await page.uncheck("[name=sees]")
    assert await page.is_disabled("[name=asked]")
    await page.click(".save .primary")
    await until(page, "document.querySelector('h1')?.textContent === 'Vera'")
    kept = await one.ask("GET", f"/avatars/{avatar}")
    assert (kept["name"], kept["vision"]) == ("Vera", "off")
    line = await page.text_content("[aria-label='Line for the page']")
    assert f'data-avatar="{avatar}"' in line and "/widget.js" in line


async def talked(one: Served, page: Any) -> None:
    """In the page itself; and what was said, with the calls of tools, is read afterwards."""
    await page.click("text=Try it")
    await page.click("gwm-avatar .quiet")
    await state(page, "listening")
    await until(page, f"{part('.captions')}.textContent.includes('Hi!')")
    await page.fill("gwm-avatar .write input", 'click {"target": "buy"}')
    await page.keyboard.press("Enter")
    await until(page, f"{part('.captions')}.textContent.includes('Done.')")
    await page.click("gwm-avatar .danger")
    await state(page, "ended")
    (kept,) = (await one.ask("GET", "/avatar_conversations"))["data"]
    await one.until(f"/realtime_sessions/{kept['id']}", "COMPLETED")
    await go(page, "conversations", "Conversations")
    await page.click(".conversations a")
    await until(page, "document.querySelector('.call')")
    assert '"target": "buy"' in await page.text_content(".call pre")
    assert 'click {"target": "buy"}' in await page.text_content(".transcript .user")
    await page.click(".heading .danger")
    await confirm(page)
    await until(page, "document.querySelector('.empty')?.checkVisibility()")
    assert (await one.ask("GET", "/avatar_conversations"))["data"] == []


def test_without_a_right_key_nothing_is_shown_and_a_picture_that_failed_is_told(tmp_path: Path):
    async def script(one: Served, browser: Any) -> None:
        await one.ask("POST", "/avatars", AVATAR | {"referenceImage": inline(b"no picture")})
        async with visited(browser, str(one.http.make_url("/studio")), [], []) as page:
            await enter(page, "key_wrong")
            await until(page, "document.querySelector('.failure')?.textContent?.includes('not valid')")
            assert await page.evaluate("sessionStorage.length") == 0 and await page.is_hidden("#nav")
            await enter(page, one.key)
            await until(page, "document.querySelector('.state')?.textContent === 'The picture cannot be used'")
            await page.click(".cards a")
            await until(
                page, "document.querySelector('.picture .failure')?.textContent?.endsWith('Choose another picture.')"
            )
            await page.set_input_files(
                "[aria-label='Picture file']", {"name": "me.png", "mimeType": "image/jpeg", "buffer": picture()}
            )
            await until(page, "document.querySelector('.note')?.textContent?.startsWith('No face')")
            await page.click(".save .primary")
            await until(page, "document.querySelector('.note')?.textContent === 'This is what visitors see.'")
            await page.evaluate("location.hash = '#/characters/nobody'")
            await until(page, "document.getElementById('problem').textContent.includes('There is no')")

    in_a_browser(script, tmp_path)


def test_it_fits_a_phone_and_tab_reaches_every_control(tmp_path: Path):
    async def script(one: Served, browser: Any) -> None:
        made = await one.ask("POST", "/avatars", AVATAR | {"tools": [CARD, LAMP], "name": "Anastasia" * 5})
        await one.ask("POST", "/documents", {"name": "w" * 255, "content": "Nine."})
        await one.until(f"/avatars/{made['id']}", "READY")
        async with visited(browser, str(one.http.make_url("/studio")), [], []) as page:
            await page.set_viewport_size({"width": 390, "height": 844})
            assert await page.evaluate("document.documentElement.scrollWidth") <= 390
            await enter(page, one.key)
            for view in (*VIEWS, f"characters/{made['id']}"):
                await page.evaluate(f"location.hash = '#/{view}'")
                await until(
                    page,
                    f"location.hash === '#/{view}' && !!document.querySelector('h1')",
                )
                await until(page, "!document.querySelector('.waiting')")
                await asyncio.sleep(0.3)  # pictures to begin with come by themselves
                assert await page.evaluate("document.documentElement.scrollWidth") <= 390, view
                await reached(page, view)

    in_a_browser(script, tmp_path)


async def reached(page: Any, view: str) -> None:
    wanted = set(await page.evaluate(CONTROLS))
    await page.evaluate("document.activeElement.blur()")
    seen = set()
    for _ in range(3 * len(wanted)):
        await page.keyboard.press("Tab")
        seen.add(await page.evaluate("document.activeElement.dataset.number"))
    missed = [
        await page.evaluate(f"document.querySelector('[data-number=\"{one}\"]').outerHTML") for one in wanted - seen
    ]
    assert len(wanted) > 3 and not missed, (view, missed)
