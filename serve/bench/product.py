"""One conversation that uses everything: python -m serve.bench.product out=product.json

Starts the server with its offline profile, makes an avatar with a document and two tools, and talks to it in a headless
Chromium by the widget on a page of another origin: a question that a document answers, a call of a backend's tool, a
card on the page, a word on a shared screen, and a story that is interrupted. JSON: what was said, what the page and the
program were asked, and how long each answer took. Needs playwright and a Chromium of the system.
"""

import asyncio
import base64
import contextlib
import json
import logging
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import aiohttp
import soundfile
import torch
from aiohttp import web
from omegaconf import DictConfig

from configs.command.main import command
from gwm.files.json_text import json_text
from gwm.files.outputs import check_output
from serve.bench.browser import WATCH, open_browser
from serve.bench.live import MICROPHONE_RATE, conversation, recorded, running_server
from serve.bench.report import keep_json, machine
from serve.live.log_lines import log_to_stdout
from serve.store.database import Store
from serve.store.keys import Limits, add_key, publishable

log = logging.getLogger(__name__)

QUIET_S, TALK_S = 12.0, 240.0  # before the first question; until everything was seen, as a busy machine misses some
WORD = "KUMQUAT"
DOCUMENT = {"name": "Opening hours", "content": "The museum opens at nine. On Sunday the museum opens at eleven."}
# Each with the seconds of silence after it; the last one comes in the middle of the story.
QUESTIONS = (
    ("When does the museum open on Sunday?", 9.0),
    ("Please check the stock of teapots.", 9.0),
    ("Please show a card about tickets.", 8.0),
    ("What is on my screen?", 9.0),
    ("Please tell me a story.", 5.0),
    ("Wait, what is your name?", 9.0),
)
TEXT = [{"name": "item", "type": "string", "description": "Which.", "required": True}]
TOOLS = [
    {
        "type": "backend_rpc",
        "name": "check_stock",
        "description": "How many of an item are in stock.",
        "parameters": TEXT,
    },
    {"type": "client_event", "name": "show_card", "description": "Shows a card on the page.", "parameters": TEXT},
]
STOCK = {"pieces": 12}
# The page of another site. Its screen is a canvas: a headless browser has no screen to share.
PAGE = """<!doctype html><title>A shop</title><h1>A shop</h1><ul id="cards"></ul><script>
navigator.mediaDevices.getDisplayMedia = async () => {
  const canvas = Object.assign(document.createElement("canvas"), { width: 1280, height: 720 });
  const brush = canvas.getContext("2d");
  setInterval(() => {
    brush.fillStyle = "white";
    brush.fillRect(0, 0, 1280, 720);
    brush.fillStyle = "black";
    brush.font = "bold 90px sans-serif";
    brush.fillText("%WORD%", 120, 300);
  }, 200);
  return canvas.captureStream(5);
};
addEventListener("avatar-event", ({ detail }) => {
  const card = Object.assign(document.createElement("li"), { textContent: JSON.stringify(detail) });
  document.getElementById("cards").append(card);
});
</script><script src="%SERVER%/widget.js" data-key="%KEY%" data-avatar="%AVATAR%" data-place="inline"></script>"""
IN_WIDGET = "document.querySelector('gwm-avatar').shadowRoot"
CAPTIONS = f"[...{IN_WIDGET}.querySelectorAll('.captions li')].map(line => line.className + ': ' + line.textContent)"


class Client:
    """Of the server's API, with a secret key."""

    def __init__(self, session: aiohttp.ClientSession, url: str, key: str) -> None:
        self.session, self.url, self.headers = session, url, {"Authorization": f"Bearer {key}"}

    async def ask(self, method: str, path: str, body: Any = None) -> Any:
        async with self.session.request(method, f"{self.url}/v1{path}", json=body, headers=self.headers) as response:
            if response.status >= 300:
                raise RuntimeError(f"{method} {path}: {response.status} {await response.text()}")
            return await response.json()

    async def avatar(self, portrait: Path) -> str:
        document = await self.ask("POST", "/documents", DOCUMENT)
        image = f"data:image/jpeg;base64,{base64.b64encode(portrait.read_bytes()).decode()}"
        about = {"name": "Vera", "personality": "Be brief.", "referenceImage": image, "tools": TOOLS}
        voice = {"type": "runway-live-preset", "presetId": "clara"}
        made = await self.ask("POST", "/avatars", about | {"voice": voice, "documentIds": [document["id"]]})
        while made["status"] == "PROCESSING":
            await asyncio.sleep(0.5)
            made = await self.ask("GET", f"/avatars/{made['id']}")
        if made["status"] != "READY":
            raise RuntimeError(f"the avatar was not made: {made}")
        return made["id"]

    async def answer_calls(self, calls: list[dict[str, Any]]) -> None:
        """The program behind the shop, for the first session that there is."""
        while True:
            for each in (await self.ask("GET", "/avatar_conversations"))["data"]:
                with contextlib.suppress(aiohttp.ClientError):
                    return await self._serve(each["id"], calls)
            await asyncio.sleep(0.5)

    async def _serve(self, session_id: str, calls: list[dict[str, Any]]) -> None:
        url = f"{self.url}/v1/realtime_sessions/{session_id}/backend"
        async with self.session.ws_connect(url, headers=self.headers) as socket:
            async for message in socket:
                call = json.loads(message.data)
                calls.append({"name": call["name"], "arguments": call["arguments"]})
                await socket.send_str(json_text({"type": "tool.result", "id": call["id"], "result": STOCK}))


@contextlib.asynccontextmanager
async def site(port: int, text: str) -> AsyncIterator[str]:
    async def answer(request: web.BaseRequest) -> web.StreamResponse:
        return web.Response(text=text, content_type="text/html")

    runner = web.ServerRunner(web.Server(answer))
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", port).start()
    try:
        yield f"http://127.0.0.1:{port}"
    finally:
        await runner.cleanup()


def complete(report: dict[str, Any]) -> dict[str, bool]:
    """What was to be shown, and whether it was."""
    said = " ".join(line for line in report["captions"] if line.startswith("character"))
    return {
        "answers_from_a_document": "Opening hours says" in said and "eleven" in said,
        "speaks_the_result_of_a_backend": "pieces 12" in said
        and any("teapots" in str(call) for call in report["calls"]),
        "shows_a_card": any("show_card" in card and "tickets" in card for card in report["cards"]),
        "reads_a_word_off_the_screen": f"On your screen I read: {WORD}" in said,
        "is_interrupted": report["interruptions"] > 0,
    }


async def shown(port: int, overrides: list[str]) -> dict[str, Any]:
    """The report of one conversation.

    Raises:
        MissingPackageError, RuntimeError: playwright or a browser is not installed, or the server does not start.
    """
    with TemporaryDirectory() as folder:
        microphone, url = Path(folder) / "questions.wav", f"sqlite:///{folder}/store.sqlite"
        soundfile.write(microphone, recorded(QUESTIONS, quiet_s=QUIET_S), MICROPHONE_RATE)
        store, origin = Store(url), f"http://127.0.0.1:{port + 1}"
        secret, public = store.do(
            lambda db: (add_key(db, "all", Limits(origins=[])), add_key(db, "shop", publishable([origin])))
        )
        store.close()
        options = [f"port={port}", f"store={url}", "llm=rules", *overrides]
        async with (
            running_server(options) as (server, _),
            aiohttp.ClientSession() as session,
            open_browser(microphone) as browser,
        ):
            client = Client(session, server, secret)
            avatar = await client.avatar(Path("serve/live/characters/noa.jpg"))
            values = {"WORD": WORD, "SERVER": server, "KEY": public, "AVATAR": avatar}
            text = PAGE
            for name, value in values.items():
                text = text.replace(f"%{name}%", value)
            async with site(port + 1, text) as page_url:
                return await _talk(browser, page_url, client) | {"server": overrides}


async def _talk(browser: Any, url: str, client: Client) -> dict[str, Any]:
    calls = list[dict[str, Any]]()
    program = asyncio.create_task(client.answer_calls(calls))
    page = await (await browser.new_context()).new_page()
    await page.add_init_script(path=WATCH)
    await page.goto(url)
    try:
        await page.click("gwm-avatar .primary")
        await page.click("gwm-avatar .screen", timeout=120_000)
        report: dict[str, Any] = {}
        for _ in range(round(TALK_S)):
            await asyncio.sleep(1)
            events = await page.evaluate("window.seen.events")
            cards = await page.evaluate("[...document.querySelectorAll('#cards li')].map(line => line.textContent)")
            talked = {"captions": await page.evaluate(CAPTIONS), "cards": cards, "calls": calls}
            report = talked | conversation(events)
            report["shown"] = complete(report)
            if all(report["shown"].values()):
                break
        return report
    finally:
        program.cancel()


@command("bench_product", verbatim=("out",))
def main(cfg: DictConfig) -> None:
    log_to_stdout(as_json=False)
    if cfg.out:
        check_output(Path(cfg.out))
    report = {"machine": machine(torch.device("cpu"))} | asyncio.run(shown(cfg.port, list(cfg.serve)))
    sys.stdout.write(f"{keep_json(report, cfg.out)}\n")


if __name__ == "__main__":
    main()
