"""The image: what is copied into it is what the server needs, its pins are those of the project, and it answers."""

import asyncio
import contextlib
import os
import re
import shlex
import shutil
import signal
import socket
import subprocess
import sys
from fnmatch import fnmatch
from pathlib import Path

import pytest

from serve.fleet.__main__ import RAY

ROOT = Path(__file__).parents[1]
DOCKERFILE = (ROOT / "Dockerfile").read_text()
STEPS = re.sub(r"\\\n\s*", " ", DOCKERFILE)
PORT = "8080"


def words_of(step: str) -> list[list[str]]:
    """The steps of this kind."""
    return [shlex.split(line.removeprefix(step)) for line in STEPS.splitlines() if line.startswith(f"{step} ")]


def context() -> list[str]:
    """Committed files that a build is given: patterns of .dockerignore in their order, the last that fits decides."""
    patterns = [line for line in (ROOT / ".dockerignore").read_text().splitlines() if line and line[0] != "#"]
    files = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=True).stdout.split()

    def kept(file: str) -> bool:
        parts, last = file.split("/"), True
        for pattern in patterns:
            rule = pattern.removeprefix("!")
            heads = ["/".join(parts[:k]) for k in range(1, len(parts) + 1)]
            names = [*heads, *parts] if rule.startswith("**/") else heads
            if any(fnmatch(name, rule.removeprefix("**/")) and ("/" in rule or "/" not in name) for name in names):
                last = pattern.startswith("!")
        return last

    return [file for file in files if kept(file)]


def test_pins_are_those_of_the_project():
    assert f'"{RAY}"' in DOCKERFILE
    torch = re.search(r"torch==[\d.]+", (ROOT / "Makefile").read_text())
    assert torch is not None and torch[0] in DOCKERFILE
    psycopg = re.search(r"^psycopg==([\d.]+)", (ROOT / "requirements-dev.txt").read_text(), re.MULTILINE)
    assert psycopg is not None and f"psycopg[binary]=={psycopg[1]}" in DOCKERFILE
    (python,) = re.findall(r"^ARG PYTHON=(\S+)", DOCKERFILE, re.MULTILINE)
    assert re.fullmatch(r"3\.\d+\.\d+-slim-\w+", python)


def test_the_server_is_nobody_of_importance_and_knows_no_secret():
    users = [line.split()[1] for line in STEPS.splitlines() if line.startswith("USER ")]
    assert users == ["1000"] and "useradd --uid 1000" in DOCKERFILE
    after = DOCKERFILE[DOCKERFILE.index("USER 1000") :]
    assert "RUN" not in after and "COPY" not in after
    assert not re.search(r"(?i)secret|password|token|_key", DOCKERFILE)
    kept = context()
    assert not [
        file for file in kept if file.startswith(("store/", "runs/", ".git", "tests/")) or file.endswith(".sqlite")
    ]
    assert {"requirements.txt", "configs/serve.yaml", "weights/character/manifest.json", "LICENSE"} <= set(kept)


@pytest.mark.slow
def test_what_is_copied_serves_and_is_found_healthy(tmp_path: Path):
    """With this environment in the place of the one that the image installs, and nothing of the repository but what the
    image has."""
    for file in context():
        (tmp_path / file).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(ROOT / file, tmp_path / file)
    (tmp_path / "store").mkdir()
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = str(free.getsockname()[1])
    (start,), (check,) = words_of("ENTRYPOINT"), words_of("HEALTHCHECK")
    starts = [word.strip("[],") for word in start]
    checks = [word.strip("[],").replace(PORT, port) for word in check[check.index("CMD") + 1 :]]
    names = ("PATH", "HOME", "LD_LIBRARY_PATH")
    environment = {name: os.environ[name] for name in names if name in os.environ} | {"PYTHONPATH": str(tmp_path)}

    async def healthy() -> int:
        asked = await asyncio.create_subprocess_exec(sys.executable, *checks[1:], stderr=asyncio.subprocess.DEVNULL)
        return await asyncio.wait_for(asked.wait(), 60)

    async def run() -> None:
        assert starts[0] == checks[0] == "python" and await healthy() != 0
        words = [*starts[1:], f"port={port}", "num_threads=1"]
        server = await asyncio.create_subprocess_exec(sys.executable, *words, cwd=tmp_path, env=environment)
        try:
            async with asyncio.timeout(300):
                while await healthy():
                    assert server.returncode is None
                    await asyncio.sleep(1)
        finally:
            with contextlib.suppress(ProcessLookupError):
                server.send_signal(signal.SIGTERM)
            assert await asyncio.wait_for(server.wait(), 120) == 0
        assert (tmp_path / "store" / "gwm.sqlite").is_file()

    asyncio.run(run())
