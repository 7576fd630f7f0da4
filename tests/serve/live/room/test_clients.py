"""Published clients, unchanged, in a room of a running server: downloaded when the tests run."""

import asyncio
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.serve.live.level_face import TIMING
from tests.serve.live.room.room_kit import consumed
from tests.serve.runway_api.api_kit import Served, served
from tests.serve.runway_api.test_session_tools import CARD, LAMP, calls_of, speaking_model

LIVEKIT = "livekit==1.2.1"
FPS, TOLERANCE_FPS = 24.0, 1.5  # over some seconds, on a machine that does other things too
HERTZ = 440  # of the visitor's microphone

pytestmark = pytest.mark.acceptance


async def ran(*words: str | Path, **environment: str) -> dict[str, Any]:
    """The JSON of a program's last line."""
    pipe = asyncio.subprocess.PIPE
    process = await asyncio.create_subprocess_exec(
        *map(str, words), env=os.environ | environment, stdout=pipe, stderr=pipe
    )
    output, errors = (each.decode() for each in await process.communicate())
    assert process.returncode == 0, (output + errors)[-4000:]
    return json.loads(output.splitlines()[-1])


async def rooms(one: Served) -> tuple[str, dict[str, dict[str, str]]]:
    """A session with tools: its path, and what its visitor and its backend join with."""
    path, visitor = await consumed(one, tools=[CARD, LAMP], startScript="Hi!")
    return path, {"visitor": visitor, "backend": await one.ask("POST", f"{path}/connect_backend")}


def pitch_of_microphone(one: Served) -> float:
    """What the engine was given of the visitor's voice: its strongest frequency."""
    sound = np.concatenate(one.kit.faces[0].users)
    loud = sound[np.abs(sound).argmax() :][: 2 * TIMING.sample_rate]
    return float(np.abs(np.fft.rfft(loud)).argmax() * TIMING.sample_rate / len(loud))


@pytest.fixture(scope="module")
def livekit(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("livekit")
    pip = [sys.executable, "-m", "pip", "--quiet", "--disable-pip-version-check"]
    subprocess.run([*pip, "install", "--no-deps", "--target", folder, LIVEKIT], check=True)
    return folder


def test_livekits_python_sdk_talks_and_answers_calls(livekit: Path, tmp_path: Path):
    async def script(one: Served) -> None:
        async with speaking_model(one):
            path, both = await rooms(one)
            program = Path(__file__).with_name("livekit_program.py")
            told = await ran(sys.executable, program, json.dumps(both), PYTHONPATH=str(livekit))
            assert abs(told["fps"] - FPS) < TOLERANCE_FPS and told["size"] == [16, 16]
            assert told["sound_s"] > 4 and told["loud"] > 0
            assert {"type": "client_event", "tool": "show_card", "args": {"title": "Hours"}} in told["events"]
            assert told["events"][-1]["type"] == "ended"
            assert told["final"][0] == ["worker:avatar", "TR_voice", "Hi!"]
            assert told["speakers"][:2] == [["worker:avatar"], []] and "speaking" in told["states"]
            assert told["calls"] == [
                ["worker:avatar", {"args": {"room": "hall"}}],
                ["worker:avatar", {"args": {"room": "attic"}}],
            ]
            assert abs(pitch_of_microphone(one) - HERTZ) < 5
            await one.until(path, "COMPLETED")
            shown, on, failed = await calls_of(one, path)
            assert shown["result"] == {"status": "event_sent"} and on["result"] == {"on": True}
            assert failed["error"] == "No lamp there."

    served(script, tmp_path)
