"""A live server as a process of its own, and the memory that it and its engines hold."""

import asyncio
import contextlib
import logging
import sys
from collections.abc import AsyncIterator
from pathlib import Path

log = logging.getLogger(__name__)

START_TIMEOUT_S = 600.0  # ten times what a machine takes whose cores ten others share
ENGINES = b"spawn_main"  # in the command line of the process that multiprocessing starts


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
