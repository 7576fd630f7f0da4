"""Quality of a live conversation, seen from a real browser: python -m serve.bench.live minutes=10 out=live.json

Starts the server, opens its page in a headless Chromium whose microphone is a recording of questions, talks for a
while, and ends with JSON and a table: frames per second, freezes, the clock of the picture, sound against picture,
memory of each process, how soon an interruption is silent, and where the time between a question and its answer went,
each beside what is asked for. With `sessions=3` others knock meanwhile. With `stages=[151,119]` denoising and
decoding a chunk each take so many milliseconds. Needs playwright and a Chromium of the system.
"""

import asyncio
import contextlib
import logging
import sys
from collections.abc import AsyncIterator, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import aiohttp
import numpy as np
import soundfile
import soxr
import torch
from omegaconf import DictConfig
from prometheus_client.parser import text_string_to_metric_families

from configs.command.main import command
from gwm.files.outputs import check_output
from serve.bench.browser import knock, open_browser, open_page, start_talking
from serve.bench.flash_and_beep import flash_minus_beep
from serve.bench.live_numbers import SETTLE_S, drift, growth, keep, picture, spread, verdict, verdict_table
from serve.bench.report import machine
from serve.bench.stages import check_stages
from serve.live.avatar.voice_buffers import Sound
from serve.live.log_lines import log_to_stdout
from serve.live.speech.espeak_voice import Espeak
from serve.live.speech.voices import PiperVoice

START_TIMEOUT_S = 600.0  # ten times what a machine takes whose cores ten others share
READY = ("talk to", "walk from")  # in the line that the server ends its start with
ENGINES = b"spawn_main"  # in the command line of the process that multiprocessing starts


@contextlib.asynccontextmanager
async def running_server(
    overrides: list[str], *, module: str = "serve", said: list[str] | None = None
) -> AsyncIterator[tuple[str, int]]:
    """Its URL and process id; stopped as an operator would, by SIGTERM.

    said: what it logs at its start is appended.

    Raises:
        RuntimeError: it ended before it was ready; its last lines are in the message.
    """
    command = [sys.executable, "-m", module, *overrides, "drain_s=0"]
    process = await asyncio.create_subprocess_exec(
        *command, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.STDOUT
    )
    assert process.stdout is not None
    lines = [] if said is None else said
    try:
        async with asyncio.timeout(START_TIMEOUT_S):
            while not (lines and any(begin in lines[-1] for begin in READY)):
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


def engine_pids(pid: int) -> list[int]:
    """The processes in which a server's engines run."""
    # Of every thread: a child belongs to the one that started it.
    lists = [_read(path).split() for path in Path(f"/proc/{pid}/task").glob("*/children")]
    children = [int(child) for part in lists for child in part]
    return [child for child in children if ENGINES in _read(Path(f"/proc/{child}/cmdline"))]


def _read(path: Path) -> bytes:
    """Empty where thread or process has ended meanwhile."""
    with contextlib.suppress(FileNotFoundError, ProcessLookupError):
        return path.read_bytes()
    return b""


def memory_mb(pid: int) -> dict[str, float]:
    """Resident memory of a server and of its engines, which are a process of their own."""
    return {"server": _resident_mb(pid), "engines": sum(map(_resident_mb, engine_pids(pid)))}


def _resident_mb(pid: int) -> float:
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("VmRSS")) / 1024


log = logging.getLogger(__name__)

MICROPHONE_RATE = 48_000
QUIET_S = 7.0  # at first, for the greeting and for the voice detector to settle
# Each with the seconds of silence after it; the third comes in the middle of the story.
QUESTIONS = (
    ("Hello, how are you today?", 8.0),
    ("Please tell me a story.", 5.0),
    ("Wait, what is your name?", 9.0),
    ("How does this work?", 12.0),
)


def questions() -> Sound:
    return recorded(QUESTIONS, quiet_s=QUIET_S)


def recorded(asked: Sequence[tuple[str, float]], *, quiet_s: float) -> Sound:
    """Texts, each with the seconds of silence after it, at 48 kHz; a browser plays it again and again."""
    voice = PiperVoice(Espeak())
    parts = [np.zeros(round(quiet_s * MICROPHONE_RATE), np.float32)]
    for text, silence_s in asked:
        parts.append(soxr.resample(voice.speak(text), voice.sample_rate, MICROPHONE_RATE))
        parts.append(np.zeros(round(silence_s * MICROPHONE_RATE), np.float32))
    sound = np.concatenate(parts)
    return sound + np.random.default_rng(0).normal(0, 1e-4, len(sound)).astype(np.float32)  # no room is silent


async def watch(page: Any, pid: int, seconds: float) -> dict[str, Any]:
    """Measurements of a conversation that has begun, over so many seconds."""
    await page.evaluate("window.forget()")
    offsets: list[float] = []
    memory: list[dict[str, float]] = []
    stats: dict[str, Any] = {}
    for second in range(max(2, round(seconds))):
        await asyncio.sleep(1)
        stats = await page.evaluate("window.stats()")
        if second >= SETTLE_S and stats["video"]["playout"] and stats["audio"]["playout"]:
            offsets.append(stats["video"]["playout"] - stats["audio"]["playout"])
        memory.append(memory_mb(pid))
    seen = await page.evaluate("() => ({...window.seen, peer: null})")
    return {
        **picture(seen),
        "video_minus_audio_ms": drift(offsets),
        "memory_mb": {name: growth([sizes[name] for sizes in memory], every_s=1.0) for name in memory[0]},
        **conversation(seen["events"]),
        "stats": stats,
    }


def conversation(events: list[dict[str, Any]]) -> dict[str, Any]:
    """Numbers from the server's own reports."""
    of: dict[str, list[dict[str, Any]]] = {}
    for event in events:
        of.setdefault(event["type"], []).append(event)
    turns, reports = of.get("latency", []), of.get("numbers", [])
    leads = [report["lead_ms"] for report in reports]
    parts = sorted({name for turn in turns for name in turn if name.endswith("_ms")})
    return {
        "stalls": reports[-1]["stalls"] - reports[0]["stalls"] if reports else None,
        "lead_ms": spread(leads),
        "answers": len(turns),
        "answer_ms": {part.removesuffix("_ms"): spread([t[part] for t in turns if part in t]) for part in parts},
        "interruptions": len(of.get("interrupted", [])),
        "silent_after_interruption_ms": spread([event["after_ms"] for event in of.get("silenced", [])]),
        "errors": [event["message"] for event in of.get("error", [])],
    }


async def engine_chunk_ms(url: str) -> float:
    """What a chunk of the first engine process takes, from one to the next."""
    async with aiohttp.ClientSession() as http, http.get(f"{url}/metrics") as answer:
        families = text_string_to_metric_families(await answer.text())
        return next(family.samples[0].value for family in families if family.name == "gwm_engine_chunk_ms")


async def bench(
    artifact: str, *, seconds: float, sessions: int, overrides: list[str], stages: list[float] | None = None
) -> dict[str, Any]:
    """The report of a conversation.

    sessions: with more than one the server has a single place, and the others knock one after the other.
    stages: milliseconds that denoising and decoding a chunk take at least; None: as long as they take.

    Raises:
        MissingPackageError, RuntimeError: playwright or a browser is not installed, or the server does not start.
    """
    if sessions > 1:
        overrides = [*overrides, "capacity=1"]
    report: dict[str, Any] = {"machine": machine(torch.device("cpu")), "artifact": artifact, "server": overrides}
    said, module, added = list[str](), "serve", list[str]()
    if stages is not None:
        module, added = "serve.bench.stages", [f"+stages=[{stages[0]},{stages[1]}]"]
        report["stages_ms"] = {"denoise": stages[0], "decode": stages[1]}
    with TemporaryDirectory() as folder:
        microphone = Path(folder) / "questions.wav"
        soundfile.write(microphone, questions(), MICROPHONE_RATE)
        async with (
            running_server([f"artifact={artifact}", *added, *overrides], module=module, said=said) as (url, pid),
            open_browser(microphone) as browser,
        ):
            report["chunk_ms"] = {"start": await engine_chunk_ms(url)}
            report["said"] = [line.rstrip() for line in said if "a chunk" in line]
            page = await open_page(browser, url)
            await start_talking(page)
            report["alone"] = await watch(page, pid, seconds)
            if sessions > 1:
                watching = asyncio.create_task(watch(page, pid, seconds))
                report["others"] = [await knock(browser, url) for _ in range(sessions - 1)]
                report["with_others_knocking"] = await watching
            report["chunk_ms"]["end"] = await engine_chunk_ms(url)
    return report


@command("bench_live", verbatim=("artifact", "out"))
def main(cfg: DictConfig) -> None:
    log_to_stdout(as_json=False)
    if cfg.minutes <= 0:
        raise ValueError(f"minutes={cfg.minutes} must be above 0: that long somebody talks.")
    stages = None if cfg.stages is None else list(cfg.stages)
    if stages is not None:
        check_stages(stages)
    if cfg.out:
        check_output(Path(cfg.out))
    more = {"sessions": cfg.sessions, "overrides": list(cfg.serve), "stages": stages}
    report = asyncio.run(bench(cfg.artifact, seconds=60 * cfg.minutes, **more))
    text = keep(report, cfg.out)  # what took minutes is safe
    if cfg.flash_seconds:
        report["flash_minus_beep_ms"] = asyncio.run(flash_minus_beep(cfg.flash_seconds))
        text = keep(report, cfg.out)
    sys.stdout.write(f"{text}\n\n{verdict_table(verdict(report))}\n")


if __name__ == "__main__":
    main()
