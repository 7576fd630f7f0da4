"""The published Python SDK, unchanged, against a running server: its own tests, and the calls of a program."""

import asyncio
import json
import os
import subprocess
import sys
import tarfile
from pathlib import Path

import pytest

from serve.store.keys import Limits, add_key
from tests.serve.runway_api.api_kit import Served, picture, running
from tests.serve.runway_api.test_voices import recording

ROOT = Path(__file__).parents[3]
SDK = "runwayml==5.24.0"
# What its tests need besides what is here; exact, and without their own dependencies, as in requirements-dev.txt.
TEST_PACKAGES = ["pytest-asyncio==1.5.0", "respx==0.23.1", "httpx-aiohttp==0.2.0"]
RESOURCES = ("avatars", "documents", "voices", "realtime_sessions", "avatar_conversations", "avatar_videos", "tasks")
KEY = "My API Key"  # as in its conftest
LEAST = 480

pytestmark = pytest.mark.acceptance


@pytest.fixture(scope="module")
def sdk(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Its source with tests, beside its packages."""
    folder = tmp_path_factory.mktemp("sdk")
    pip = [sys.executable, "-m", "pip", "--quiet", "--disable-pip-version-check"]
    subprocess.run([*pip, "download", "--no-deps", "--no-binary=:all:", "-d", folder, SDK], check=True)
    with tarfile.open(next(folder.glob("*.tar.gz"))) as archive:
        archive.extractall(folder, filter="data")
    packages = folder / "packages"
    subprocess.run([*pip, "install", "--no-deps", "--target", packages, SDK, *TEST_PACKAGES], check=True)
    return folder


async def in_process(one: Served, sdk: Path, words: list[str], folder: Path) -> tuple[int, str]:
    source = next(path for path in sdk.iterdir() if path.name.startswith("runwayml-") and path.is_dir())
    here = Path(__file__).parent
    url = f"http://127.0.0.1:{one.http.port}"
    environment = os.environ | {
        "PYTHONPATH": os.pathsep.join(map(str, (sdk / "packages", source, here, ROOT))),
        "TEST_API_BASE_URL": url,
        "RUNWAYML_BASE_URL": url,
        "RUNWAYML_API_SECRET": KEY,
        "STORE": f"sqlite:///{folder}/gwm.sqlite",
    }
    pipe, joined = asyncio.subprocess.PIPE, asyncio.subprocess.STDOUT
    process = await asyncio.create_subprocess_exec(
        sys.executable, *words, cwd=source, env=environment, stdout=pipe, stderr=joined
    )
    output, _ = await process.communicate()
    return await process.wait(), output.decode()


def test_its_own_tests_pass(sdk: Path, tmp_path: Path):
    async def run() -> tuple[int, str]:
        async with running(tmp_path) as one:
            one.store.do(lambda db: add_key(db, "sdk", Limits(origins=[]), text=KEY))
            files = [f"tests/api_resources/test_{name}.py" for name in RESOURCES]
            words = ["-m", "pytest", "-o", "addopts=", "-q", "-p", "sdk_plugin", "-p", "no:randomly", *files]
            return await in_process(one, sdk, words, tmp_path)

    status, output = asyncio.run(run())
    assert status == 0, output[-6000:]
    passed = int(output.rpartition(" passed")[0].split()[-1])
    assert passed >= LEAST, output[-500:]


def test_a_program_of_a_customer_runs_with_another_url(sdk: Path, tmp_path: Path):
    image, sound = tmp_path / "me.jpg", tmp_path / "me.wav"
    image.write_bytes(picture())
    sound.write_bytes(recording(180))

    async def run() -> tuple[int, str]:
        async with running(tmp_path) as one:
            one.store.do(lambda db: add_key(db, "sdk", Limits(origins=[]), text=KEY))
            program = Path(__file__).with_name("sdk_program.py")
            return await in_process(one, sdk, [str(program), str(image), str(sound)], tmp_path)

    status, output = asyncio.run(run())
    assert status == 0, output[-3000:]
    told = json.loads(output.splitlines()[-1])
    assert "similarity" in told.pop("voice") and told.pop("session_key") > 40
    assert told == {
        "avatar": "READY",
        "known_by": ["Vera"],
        "cancelled": "CANCELLED",
        "film": "SUCCEEDED",
        "documents": 61,
        "credits": 0,
        "missing": 404,
        "wrong": 401,
    }
