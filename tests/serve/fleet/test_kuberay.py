"""configs/kuberay.yaml: a fleet as configs/fleet.yaml has it, on pods that are large and patient enough."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from serve.fleet.__main__ import RAY, built
from serve.fleet.options import FleetOptions
from serve.live.http.ice import SECRET_VARIABLE

MANIFEST = yaml.safe_load((Path(__file__).parents[3] / "configs" / "kuberay.yaml").read_text())
SPEC = MANIFEST["spec"]
(APPLICATION,) = yaml.safe_load(SPEC["serveConfigV2"])["applications"]
CLUSTER = SPEC["rayClusterConfig"]
(WORKERS,) = CLUSTER["workerGroupSpecs"]
STORE = "postgresql+psycopg://gwm:p%40ss@db.example.org/gwm"


@pytest.fixture(scope="module")
def deployed() -> dict[str, Any]:
    """What Ray Serve would be given, in a process that has what is secret in its environment."""
    words = "import json, sys; from dataclasses import asdict; from serve.fleet import __main__ as fleet; "
    words += "fleet.application = lambda *parts: [asdict(part) for part in parts]; "
    words += "print(json.dumps(fleet.built(json.loads(sys.argv[1]))))"
    command = [sys.executable, "-c", words, json.dumps(APPLICATION["args"])]
    done = subprocess.run(command, env=os.environ | {"GWM_STORE": STORE}, capture_output=True, text=True, check=True)
    settings, fleet, api = json.loads(done.stdout.splitlines()[-1])
    return settings | {"fleet": fleet, "api": api}


def pod(group: dict[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    """Its specification, and that of its container."""
    spec = group["template"]["spec"]
    (container,) = spec["containers"]
    return spec, container


def test_it_is_deployed_by_the_function_that_reads_its_settings(deployed: dict[str, Any]):
    options, api = deployed["options"], deployed["api"]
    module, _, name = APPLICATION["import_path"].partition(":")
    assert (module, name) == (built.__module__, built.__name__)
    assert api["store"] == STORE and api["public_url"] in {f"https://{host}" for host in options["hosts"]}
    assert options["host"] == "0.0.0.0" and options["ice_servers"][0].startswith("turn:")
    for path in (options["artifact"], options["characters"]):  # absolute: whoever starts Ray chooses its folder
        assert (Path(__file__).parents[3] / Path(path).relative_to("/gwm")).is_dir()


def test_a_worker_fits_into_its_pod_and_there_are_as_many_pods_as_workers(deployed: dict[str, Any]):
    fleet = FleetOptions(**deployed["fleet"])
    assert (WORKERS["replicas"], WORKERS["minReplicas"]) == (fleet.workers, fleet.workers)
    assert WORKERS["maxReplicas"] == fleet.max_workers and CLUSTER["enableInTreeAutoscaling"]
    spec, container = pod(WORKERS)
    limits, started = container["resources"]["limits"], WORKERS["rayStartParams"]
    assert limits["nvidia.com/gpu"] == int(started["num-gpus"]) == fleet.num_gpus * fleet.workers_per_node
    assert limits["cpu"] == int(started["num-cpus"]) == fleet.num_cpus * fleet.workers_per_node
    assert container["ports"][0]["containerPort"] == fleet.worker_port and spec["hostNetwork"]
    assert spec["terminationGracePeriodSeconds"] > fleet.drain_s >= deployed["timeouts"]["session_s"]
    assert CLUSTER["headGroupSpec"]["rayStartParams"]["num-cpus"] == "0"  # no worker comes there
    gateway = {each["name"]: each["containerPort"] for each in pod(CLUSTER["headGroupSpec"])[1]["ports"]}["gateway"]
    assert gateway == deployed["options"]["port"]


def test_pods_have_what_is_secret_from_kubernetes_and_are_not_root():
    assert f"ray[serve]=={CLUSTER['rayVersion']}" == RAY and SPEC["upgradeStrategy"] == {"type": "None"}
    for group in (CLUSTER["headGroupSpec"], WORKERS):
        _, container = pod(group)
        assert container["securityContext"]["runAsNonRoot"] and container["securityContext"]["runAsUser"] == 1000
        named = {each["name"]: each for each in container["env"]}
        assert named["RAY_worker_niceness"]["value"] == "0"
        for name in ("GWM_STORE", SECRET_VARIABLE):
            assert set(named[name]) == {"name", "valueFrom"} and "secretKeyRef" in named[name]["valueFrom"]
        assert "command" not in container  # KubeRay would put it before its own
