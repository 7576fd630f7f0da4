"""From a key to the picture that it changes, in a real browser: python -m serve.bench.key_to_picture out=keys.json

Starts the server of a world, opens its page in a headless Chromium, and turns left and right from rest, at times that
have nothing to do with the chunks. The page itself sees which picture is the first that differs. Needs playwright and a
Chromium of the system.
"""

import asyncio
import logging
import os
import sys
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import soundfile
import torch
from omegaconf import DictConfig

from configs.command.main import command
from gwm.files.outputs import check_output
from serve.bench.browser import open_browser, open_page, start_talking
from serve.bench.live import MICROPHONE_RATE, running_server
from serve.bench.live_numbers import picture, spread
from serve.bench.report import keep_json, machine
from serve.live.log_lines import log_to_stdout

log = logging.getLogger(__name__)

REST_S, HELD_S = 1.0, 0.3  # the page measures a key that comes after 0.6 s without one
SEEN_S = 2.5  # after which the page no longer waits for a picture
KEYS = ("ArrowLeft", "ArrowRight")
# When a key was pressed, and when the server's receipt for it came, by the page's clock.
LISTEN = """() => {
  window.keyed = [];
  document.addEventListener("keydown", ({ timeStamp }) => window.keyed.push({ pressed: timeStamp }), true);
  window.seen.peer.events.addEventListener("message", ({ data }) => {
    const { type, of } = JSON.parse(data), last = window.keyed.at(-1);
    if (type === "receipt" && of === "action.set" && last) last.receipt ??= performance.now();
  });
}"""
COUNT = "document.getElementById('n-action').dataset.count ?? 0"
LAST = "document.getElementById('n-action').dataset.times.split(' ').at(-1)"


async def press(page: Any, key: str) -> tuple[float, float] | None:
    """Milliseconds from a key to its picture, and to the server's receipt; None: no picture differed in time."""
    before = await page.evaluate(COUNT)
    await page.keyboard.down(key)
    await asyncio.sleep(HELD_S)
    await page.keyboard.up(key)
    for _ in range(round(SEEN_S / 0.1)):
        if await page.evaluate(COUNT) != before:
            times = await page.evaluate("window.keyed.at(-1)")
            return float(await page.evaluate(LAST)), times["receipt"] - times["pressed"]
        await asyncio.sleep(0.1)
    return None


async def bench(artifact: str, *, presses: int, overrides: list[str]) -> dict[str, Any]:
    """The report.

    Raises:
        MissingPackageError, RuntimeError: playwright or a browser is not installed, or the server does not start.
    """
    rng, found, load = np.random.default_rng(0), [], os.getloadavg()[0]
    with TemporaryDirectory() as folder:
        microphone = Path(folder) / "silence.wav"
        soundfile.write(microphone, np.zeros(MICROPHONE_RATE), MICROPHONE_RATE)
        async with (
            running_server([f"artifact={artifact}", *overrides]) as (url, _),
            open_browser(microphone) as browser,
        ):
            page = await open_page(browser, url)
            await start_talking(page)
            await page.evaluate(LISTEN)
            await page.evaluate("window.forget()")
            for number in range(presses):
                await asyncio.sleep(REST_S + rng.uniform(0, 0.5))
                found.append(await press(page, KEYS[number % 2]))
            seen = await page.evaluate("() => ({...window.seen, peer: null})")
    pairs = [times for times in found if times is not None]
    leads = [event["lead_ms"] for event in seen["events"] if event["type"] == "numbers"]
    return {
        "machine": machine(torch.device("cpu")),
        "load_before": round(load, 2),  # of the machine, in processes that run
        "artifact": artifact,
        "server": overrides,
        "presses": presses,
        "not_seen": presses - len(pairs),
        "key_to_picture_ms": spread([total for total, _ in pairs]),
        "parts_ms": {
            "key_to_receipt": spread([receipt for _, receipt in pairs]),  # the chunk is made again by then
            "receipt_to_picture": spread(
                [total - receipt for total, receipt in pairs]
            ),  # wait, coding, network, screen
        },
        "lead_ms": spread(leads),
        **picture(seen),
    }


@command("bench_key_to_picture", verbatim=("artifact", "out"))
def main(cfg: DictConfig) -> None:
    log_to_stdout(as_json=False)
    if cfg.presses < 1:
        raise ValueError(f"presses={cfg.presses} must be at least 1.")
    if cfg.out:
        check_output(Path(cfg.out))
    report = asyncio.run(bench(cfg.artifact, presses=cfg.presses, overrides=list(cfg.serve)))
    sys.stdout.write(f"{keep_json(report, cfg.out)}\n")


if __name__ == "__main__":
    main()
