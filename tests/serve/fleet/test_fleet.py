"""The fleet on three nodes of this machine, with real servers of a tiny model; Ray is installed for it, apart."""

import json
import os
import subprocess
import sys
import sysconfig
from pathlib import Path

import pytest

from serve.fleet.__main__ import RAY

PROGRAM = Path(__file__).with_name("fleet_program.py")
LOST_S = 5.0  # after which sessions of a killed node have failed


@pytest.fixture(scope="module")
def python(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One that has Ray, and everything of this environment."""
    folder = tmp_path_factory.mktemp("ray")
    subprocess.run([sys.executable, "-m", "venv", folder], check=True)
    found = folder / "bin" / "python"
    ask = [found, "-c", "import sysconfig; print(sysconfig.get_path('purelib'))"]
    packages = subprocess.run(ask, check=True, capture_output=True, text=True).stdout.strip()
    (Path(packages) / "project.pth").write_text(sysconfig.get_path("purelib"))
    subprocess.run([found, "-m", "pip", "install", "-q", "--no-compile", RAY], check=True)
    return found


@pytest.mark.acceptance
@pytest.mark.parametrize("contract", [1], ids=["chunk_of_1"], indirect=True)  # one cluster is enough
@pytest.mark.timeout(1800)
def test_sessions_outlast_drains_and_restarts_and_are_lost_with_their_node_alone(
    python: Path, folder: Path, tmp_path: Path
):
    environment = os.environ | {"RAY_raylet_start_wait_time_s": "240"}
    words = [python, PROGRAM, folder, tmp_path]
    done = subprocess.run(words, env=environment, capture_output=True, text=True, timeout=1500, cwd=tmp_path)
    assert done.returncode == 0, done.stderr[-5000:]
    found = json.loads(done.stdout.strip().splitlines()[-1])
    assert found["places"] == [2, 2]  # of four sessions, at two workers
    assert found["fifth"] == "let in" and found["backend"]
    assert found["lost"] and found["others_go_on"] and found["failed_s"] < LOST_S
    assert found["new_node_s"] > 0
    assert found["drained_ready"] == [503, True] and found["drained_gets_new"] == 0
    assert found["drained_goes_on"] == "READY" and found["others_of_the_drain"] == ["READY", "READY"]
    assert found["during"] == ["READY", "READY"] and found["replaced"]
    assert found["restart_ends"] == ["CANCELLED"] * 5  # by their clients: none has failed, open or waiting
