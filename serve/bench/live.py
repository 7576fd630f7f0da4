"""How well a conversation runs, seen from a real browser: python -m serve.bench.live artifact=runs/nano/artifact

Starts the server, opens its page in a headless Chromium whose microphone is a recording of questions, talks for a
while, and prints JSON: frames per second, freezes, the clock of the picture, sound against picture, memory, and where
the time between a question and its answer went. Needs playwright and a Chromium of the system.
"""

import asyncio
import contextlib
import json
import logging
import shutil
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import hydra
import numpy as np
import soundfile
import soxr
from omegaconf import DictConfig

from gwm.optional import optional_module
from serve.live.espeak import Espeak
from serve.live.sound import Sound
from serve.live.voices import PiperVoice

log = logging.getLogger(__name__)

BROWSERS = ("chromium", "chromium-browser", "google-chrome")
COMMAND = "pip install playwright==1.65.2 && apt-get install chromium"
MICROPHONE_RATE = 48_000
QUIET_S = 7.0  # at first, for the greeting and for the voice detector to settle
# Each with the seconds of silence after it; the third comes while the story is still being told.
QUESTIONS = (
    ("Hello, how are you today?", 8.0),
    ("Please tell me a story.", 5.0),
    ("Wait, what is your name?", 9.0),
    ("How does this work?", 12.0),
)
FREEZE_MS = 200.0  # a gap that a viewer notices
START_TIMEOUT_S = 90.0
# Wraps what the page uses, so that the page itself needs to know nothing of being measured.
WATCH = """
window.seen = {events: [], frames: 0, gaps: [], first: null, last: null};
const Peer = window.RTCPeerConnection;
window.RTCPeerConnection = class extends Peer {
  constructor(...given) { super(...given); window.seen.peer = this; }
  createDataChannel(...given) {
    const channel = super.createDataChannel(...given);
    channel.addEventListener("message", ({data}) => window.seen.events.push(JSON.parse(data)));
    return channel;
  }
};
window.addEventListener("DOMContentLoaded", () => {
  const video = document.getElementById("face"), seen = window.seen;
  const watch = (now, frame) => {
    const time = {at: frame.presentationTime, rtp: frame.rtpTimestamp};
    if (seen.last) seen.gaps.push(Math.round(time.at - seen.last.at));
    seen.first ??= time; seen.last = time; seen.frames += 1;
    video.requestVideoFrameCallback(watch);
  };
  video.requestVideoFrameCallback(watch);
});
"""
STATS = """async () => {
  const found = {};
  for (const report of (await window.seen.peer.getStats()).values())
    if (report.type === "inbound-rtp") found[report.kind] = {
      playout: report.estimatedPlayoutTimestamp, lost: report.packetsLost,
      freezes: report.freezeCount, frozen_s: report.totalFreezesDuration, concealed: report.concealedSamples};
  return found;
}"""


def questions() -> Sound:
    """The recording at 48 kHz; a browser plays it again and again."""
    voice = PiperVoice(Espeak())
    parts = [np.zeros(round(QUIET_S * MICROPHONE_RATE), np.float32)]
    for text, silence_s in QUESTIONS:
        parts.append(soxr.resample(voice.speak(text), voice.sample_rate, MICROPHONE_RATE))
        parts.append(np.zeros(round(silence_s * MICROPHONE_RATE), np.float32))
    sound = np.concatenate(parts)
    return sound + np.random.default_rng(0).normal(0, 1e-4, len(sound)).astype(np.float32)  # no room is silent


def browser_path() -> str:
    """
    Raises:
        RuntimeError: no Chromium on this machine.
    """
    found = next(filter(None, map(shutil.which, BROWSERS)), None)
    if not found:
        raise RuntimeError(f"none of {BROWSERS} is installed. On Debian: apt-get install chromium")
    return found


@contextlib.asynccontextmanager
async def open_page(url: str, microphone: Path) -> AsyncIterator[Any]:
    """The page in a browser that hears `microphone`, watched; closed at the end.

    Raises:
        MissingPackageError, RuntimeError: playwright or a browser is not installed.
    """
    playwright = optional_module("playwright.async_api", COMMAND)
    flags = [
        "--no-sandbox",  # the page is our own
        "--use-fake-ui-for-media-stream",
        "--use-fake-device-for-media-stream",
        "--autoplay-policy=no-user-gesture-required",
        f"--use-file-for-fake-audio-capture={microphone}",
    ]
    async with playwright.async_playwright() as library:
        browser = await library.chromium.launch(executable_path=browser_path(), args=flags)
        try:
            page = await browser.new_page(viewport={"width": 1000, "height": 720})
            await page.add_init_script(WATCH)
            await page.goto(f"{url}/?plain")
            await page.wait_for_selector("#characters input:checked + .card")
            yield page
        finally:
            await browser.close()


async def start_talking(page: Any) -> None:
    await page.click("#start")
    async with asyncio.timeout(START_TIMEOUT_S):
        while await page.evaluate("window.seen.frames") < 24:
            await asyncio.sleep(0.1)


@contextlib.asynccontextmanager
async def running_server(overrides: list[str]) -> AsyncIterator[tuple[str, int]]:
    """Its URL and process id; stopped as an operator would, by SIGTERM.

    Raises:
        RuntimeError: it ended before it was ready; its last lines are in the message.
    """
    command = [sys.executable, "-m", "serve", *overrides, "drain_s=0"]
    process = await asyncio.create_subprocess_exec(
        *command, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.STDOUT
    )
    assert process.stdout is not None
    lines: list[str] = []
    try:
        async with asyncio.timeout(START_TIMEOUT_S):
            while "talk to" not in (lines[-1] if lines else ""):
                line = (await process.stdout.readline()).decode()
                if not line:
                    raise RuntimeError(f"the server ended before it was ready:\n{''.join(lines[-5:])}")
                lines.append(line)
        log.info("%s", lines[-1].rstrip())
        reading = asyncio.create_task(process.stdout.read())  # so that it never waits for a reader
        yield lines[-1].split()[-1], process.pid
        process.terminate()
        await asyncio.gather(process.wait(), reading)
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()


def memory_mb(pid: int) -> float:
    """Resident memory of a process and its children."""
    children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    own = next(int(line.split()[1]) for line in lines if line.startswith("VmRSS"))
    return own / 1024 + sum(memory_mb(int(child)) for child in children)


async def measure(page: Any, pid: int, seconds: float) -> dict[str, Any]:
    """The report of a conversation that has begun."""
    await page.evaluate("() => Object.assign(window.seen, {events: [], frames: 0, gaps: [], first: null, last: null})")
    offsets, memory, numbers = [], [], {}
    for _ in range(round(seconds)):
        await asyncio.sleep(1)
        numbers = await page.evaluate(STATS)
        if numbers["video"]["playout"] and numbers["audio"]["playout"]:
            offsets.append(numbers["video"]["playout"] - numbers["audio"]["playout"])
        memory.append(memory_mb(pid))
    seen = await page.evaluate("() => ({...window.seen, peer: null})")
    wall_ms = seen["last"]["at"] - seen["first"]["at"]
    turns = [
        {k: v for k, v in event.items() if k.endswith("_ms")} for event in seen["events"] if event["type"] == "latency"
    ]
    leads = [event["lead_ms"] for event in seen["events"] if event["type"] == "numbers"]
    stalls = [event["stalls"] for event in seen["events"] if event["type"] == "numbers"]
    return {
        "seconds": round(wall_ms / 1000, 1),
        "fps": round(1000 * (seen["frames"] - 1) / wall_ms, 2),
        "rtp_over_wall": round((seen["last"]["rtp"] - seen["first"]["rtp"]) / 90 / wall_ms, 4),
        "freezes": sum(gap > FREEZE_MS for gap in seen["gaps"]),
        "gap_ms": {"p99": float(np.percentile(seen["gaps"], 99)), "max": max(seen["gaps"])},
        "stalls": stalls[-1] - stalls[0] if stalls else 0,
        "lead_ms": {"max": max(leads, default=0), "median": float(np.median(leads or [0]))},
        "video_minus_audio_ms": _spread(offsets),
        "memory_mb": {"first": round(memory[0]), "last": round(memory[-1]), "max": round(max(memory))},
        "answers": len(turns),
        "interruptions": sum(event["type"] == "interrupted" for event in seen["events"]),
        "answer_ms": _parts(turns),
        "stats": numbers,
    }


def _spread(values: list[float]) -> dict[str, float]:
    low, middle, high = np.percentile(values or [0.0], [5, 50, 95])
    return {"p5": round(float(low)), "p50": round(float(middle)), "p95": round(float(high))}


def _parts(turns: list[dict[str, float]]) -> dict[str, dict[str, float]]:
    names = sorted({name for turn in turns for name in turn})
    return {name.removesuffix("_ms"): _spread([turn[name] for turn in turns if name in turn]) for name in names}


async def bench(artifact: str, *, seconds: float, overrides: list[str]) -> dict[str, Any]:
    """Raises: as `open_page` and `running_server`."""
    with TemporaryDirectory() as folder:
        microphone = Path(folder) / "questions.wav"
        soundfile.write(microphone, questions(), MICROPHONE_RATE)
        async with (
            running_server([f"artifact={artifact}", *overrides]) as (url, pid),
            open_page(url, microphone) as page,
        ):
            await start_talking(page)
            return await measure(page, pid, seconds)


@hydra.main(version_base="1.3", config_path="../../configs", config_name="bench_live")
def main(cfg: DictConfig) -> None:
    report = asyncio.run(bench(cfg.artifact, seconds=cfg.seconds, overrides=list(cfg.serve)))
    text = json.dumps(report, indent=1)
    if cfg.out:
        Path(cfg.out).write_text(text + "\n")
    sys.stdout.write(text + "\n")


if __name__ == "__main__":
    main()
