"""The fleet on three nodes of this machine, with real servers of a tiny model; Ray is installed for it, apart."""

import json
import os
import subprocess
import sys
import sysconfig
from pathlib import Path
from typing import Any

import pytest

from serve.fleet.__main__ import RAY
from tests.serve.store.conftest import new_database, postgres

__all__ = ["postgres"]  # a fixture

ROOT = Path(__file__).parents[3]
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


def played(python: Path, artifact: Path, store: str, which: str, folder: Path) -> dict[str, Any]:
    """What the program has found. A node of Ray ends when its agents are not there after 15 s, which no setting changes
    and a busy machine may need: then it is asked again."""
    environment = os.environ | {"RAY_raylet_start_wait_time_s": "60"}
    words = [python, PROGRAM, artifact, store, which]
    for _ in range(3):
        done = subprocess.run(words, env=environment, capture_output=True, text=True, timeout=1500, cwd=folder)
        if done.returncode == 0 or "timed out during startup" not in done.stderr:
            break
    assert done.returncode == 0, done.stderr[-5000:]
    return json.loads(done.stdout.strip().splitlines()[-1])


@pytest.mark.acceptance
@pytest.mark.parametrize("contract", [1], ids=["chunk_of_1"], indirect=True)  # one cluster is enough
@pytest.mark.timeout(1800)
def test_sessions_outlast_drains_and_restarts_and_are_lost_with_their_node_alone(
    python: Path, folder: Path, tmp_path: Path
):
    found = played(python, folder, f"sqlite:///{tmp_path}/gwm.sqlite", "nodes", tmp_path)
    assert found["places"] == [2, 2]  # of four sessions, at two workers
    assert found["fifth"] == "let in" and found["backend"]
    assert found["lost"] and found["others_go_on"] and found["failed_s"] < LOST_S
    assert found["new_node_s"] > 0
    assert found["drained_ready"] == [503, True] and found["drained_gets_new"] == 0
    assert found["drained_goes_on"] == "READY" and found["others_of_the_drain"] == ["READY", "READY"]
    assert found["during"] == ["READY", "READY"] and found["replaced"]
    assert found["restart_ends"] == ["CANCELLED"] * 5  # by their clients: none has failed, open or waiting


@pytest.mark.acceptance
@pytest.mark.parametrize("contract", [1], ids=["chunk_of_1"], indirect=True)
@pytest.mark.timeout(1800)
def test_a_fleet_on_postgres_grows_with_its_sessions_and_loses_none_with_one_of_two_gateways(
    python: Path, folder: Path, tmp_path: Path, postgres: Path
):
    found = played(python, folder, new_database(postgres), "growth", tmp_path)
    assert (found["first"], found["grown"]) == (1, 2)  # workers with sessions: at first, and with two more of them
    assert found["backend"] and found["shrunk_s"] > 0 and found["last"]
    assert found["ends"] == ["CANCELLED"] * 4  # by their client: none has failed


@pytest.mark.acceptance
def test_what_kuberay_is_given_is_what_ray_serve_takes(python: Path):
    """By its own schema; the application is made of it, and can be sent to other nodes."""
    words = "import yaml; from ray import cloudpickle; from ray.serve.schema import ServeDeploySchema as Schema; "
    words += "from serve.fleet import __main__ as fleet; text = yaml.safe_load(open('configs/kuberay.yaml')); "
    words += "(one,) = Schema.model_validate(yaml.safe_load(text['spec']['serveConfigV2'])).applications; "
    words += "made = getattr(fleet, one.import_path.split(':')[1])(one.args); "
    words += "print(one.route_prefix, len(cloudpickle.dumps(made._bound_deployment.func_or_class)) > 0)"
    environment = os.environ | {"GWM_STORE": "sqlite:///gwm.sqlite", "PYTHONPATH": str(ROOT)}
    done = subprocess.run([python, "-c", words], env=environment, capture_output=True, text=True, cwd=ROOT)
    assert done.returncode == 0, done.stderr[-3000:]
    assert done.stdout.split()[-2:] == ["None", "True"]
