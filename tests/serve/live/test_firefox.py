"""Our own page in Firefox, which has a WebRTC of its own; puppeteer-core drives it without a driver."""

import asyncio
import os
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest

from tests.serve.live.level_face import TIMING
from tests.serve.live.room.test_clients import HERTZ, NODE, NPM, ran
from tests.serve.live.server_kit import GREETING, serving

FIREFOX = next(filter(None, map(shutil.which, ("firefox-esr", "firefox"))), None)
PUPPETEER = "puppeteer-core@25.16.0"

pytestmark = [
    pytest.mark.acceptance,
    pytest.mark.skipif(FIREFOX is None, reason="no Firefox: apt-get install firefox-esr"),
]


@pytest.fixture(scope="module")
def program(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("firefox")
    environment = os.environ | {"PATH": os.pathsep.join((str(NODE.parent), os.environ["PATH"]))}
    words = [NODE, NPM, "install", "--no-audit", "--no-fund", "--silent", PUPPETEER]
    (folder / "package.json").write_text("{}")
    subprocess.run(words, cwd=folder, env=environment, check=True)
    return Path(shutil.copy(Path(__file__).with_name("firefox_program.mjs"), folder))


def test_firefox_shows_hears_and_speaks(program: Path):
    async def run() -> None:
        async with serving() as (kit, client):
            told = await ran(NODE, program, str(FIREFOX), str(client.make_url("/")).rstrip("/"), str(HERTZ))
            assert GREETING.split()[0] in told["greeting"] and told["size"] == [16, 16] and not told["wrong"]
            sound = np.concatenate(kit.faces[0].users)
            loud = sound[np.abs(sound).argmax() :][: 2 * TIMING.sample_rate]
            pitch = float(np.abs(np.fft.rfft(loud)).argmax() * TIMING.sample_rate / len(loud))
            assert abs(pitch - HERTZ) < 5

    asyncio.run(run())
