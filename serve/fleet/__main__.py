"""Serve from several machines: `python -m serve.fleet`. See configs/fleet.yaml and docs/operating.md."""

import logging
import os
import secrets
import signal
import threading
import time
from typing import Any

from hydra import compose, initialize_config_dir
from omegaconf import DictConfig, OmegaConf

from configs.command.main import CONFIGS, command
from gwm.optional import optional_module
from serve.fleet.gateway import Gateway
from serve.fleet.options import FleetOptions
from serve.fleet.worker import Worker
from serve.live.log_lines import log_to_stdout
from serve.runway_api.mount import ApiOptions
from serve.settings import ServerSettings

log = logging.getLogger(__name__)

APP = "gwm"
RAY = "ray[serve]==2.60.0"
INSTALL = f"pip install '{RAY}'"
GATEWAY_STOPS_S = 5.0
COUNTED = {"metrics_interval_s": 2.0, "look_back_period_s": 10.0}  # by autoscaling: sessions, on the average
HEAD = {"node:__internal_head__": 0.001}  # the gateway's place: its address is known and stays


def seconds_left(ray: Any) -> float | None:
    """Until this process's node is taken away; None: nobody drains it."""
    # Ray has no public name for it. The version is pinned, and the test with a drained node uses it.
    ends_ms = ray._private.state.state.get_draining_nodes().get(ray.get_runtime_context().get_node_id())
    if ends_ms is None:
        return None
    return max(0.0, ends_ms / 1000 - time.time()) if ends_ms else float("inf")


def application(settings: ServerSettings, fleet: FleetOptions, api: ApiOptions) -> Any:
    """What Ray Serve runs: a gateway, and workers that it opens leases with."""
    ray, serve, util = (optional_module(name, INSTALL) for name in ("ray", "ray.serve", "ray.util"))
    secret = secrets.token_bytes(32)

    class ServedWorker(Worker):
        async def __init__(self) -> None:
            log_to_stdout(as_json=False)
            super().__init__(settings, fleet, api, secret)
            await self.start(util.get_node_ip_address())

        async def check_health(self) -> None:
            await self.check()
            if (left_s := seconds_left(ray)) is not None:
                self.drain(min(left_s, fleet.drain_s))

        async def __del__(self) -> None:
            await self.stop()

    class ServedGateway(Gateway):
        async def __init__(self, workers: Any) -> None:
            log_to_stdout(as_json=False)
            super().__init__(settings, fleet, api, secret)
            await self.start(lambda session_id: workers.options(stream=True).hold.remote(session_id))

        async def __del__(self) -> None:
            await self.stop()

    scaling: dict[str, Any] = {"num_replicas": fleet.workers}
    if fleet.max_workers is not None:
        limits = {"min_replicas": fleet.workers, "max_replicas": fleet.max_workers}
        delays = {"upscale_delay_s": fleet.up_s, "downscale_delay_s": fleet.down_s}
        scaling = {"autoscaling_config": limits | delays | COUNTED | {"target_ongoing_requests": fleet.target}}
    health = {"health_check_period_s": 2.0, "health_check_timeout_s": 10.0}
    workers = serve.deployment(
        name="Worker",
        max_ongoing_requests=fleet.places,
        max_replicas_per_node=fleet.workers_per_node,
        ray_actor_options={"num_cpus": fleet.num_cpus, "num_gpus": fleet.num_gpus},
        graceful_shutdown_timeout_s=fleet.drain_s,
        graceful_shutdown_wait_loop_s=1.0,
        **scaling,
        **health,
    )(ServedWorker)
    gateway = serve.deployment(
        name="Gateway",
        num_replicas=fleet.gateways,
        max_replicas_per_node=1 if fleet.gateways > 1 else None,
        ray_actor_options={"num_cpus": 0, "resources": HEAD if fleet.gateways == 1 else {}},
        graceful_shutdown_timeout_s=GATEWAY_STOPS_S,
        **health,
    )(ServedGateway)
    return gateway.bind(workers.bind())


def run(settings: ServerSettings, fleet: FleetOptions, api: ApiOptions) -> None:
    """Start the fleet on the cluster that this process is connected to.

    Raises:
        RuntimeError: it does not start; the replicas' logs say why.
    """
    serve = optional_module("ray.serve", INSTALL)
    serve.start(proxy_location="Disabled")  # clients come to gateways and workers themselves
    serve.run(application(settings, fleet, api), name=APP, route_prefix=None)


def parts_of(cfg: DictConfig) -> tuple[ServerSettings, FleetOptions, ApiOptions]:
    """Read and check configs/fleet.yaml.

    Raises:
        ValueError: as the parts, or there is no store.
    """
    values: Any = OmegaConf.to_container(cfg, resolve=True)
    log_to_stdout(as_json=values.pop("log_json"))
    fleet = FleetOptions(**values.pop("fleet"))
    api = ApiOptions.of(values)
    if api.store is None:
        raise ValueError("store=null must be a database: it is how gateway and workers know of sessions.")
    return ServerSettings.of(values), fleet, api


def built(args: dict[str, Any]) -> Any:
    """What Ray Serve runs, as its own configuration files name it (configs/kuberay.yaml): args are settings by their
    names.

    Raises:
        ValueError: as `parts_of`.
    """
    with initialize_config_dir(str(CONFIGS), version_base="1.3"):
        cfg = compose("fleet", [f"{name}={'null' if value is None else value}" for name, value in args.items()])
    return application(*parts_of(cfg))


@command("fleet", verbatim=("artifact", "characters", "text_encoder", "store", "public_url"))
def main(cfg: DictConfig) -> None:
    settings, fleet, api = parts_of(cfg)
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # nothing is reported to anybody
    os.environ.setdefault("RAY_worker_niceness", "0")  # Ray would put its processes behind all others
    ray = optional_module("ray", INSTALL)
    ray.init(address=fleet.address, include_dashboard=False, logging_level=logging.ERROR)
    run(settings, fleet, api)
    options = settings.options
    log.info("fleet of %d workers: %s://%s:%d", fleet.workers, options.scheme, options.host, options.port)
    stop = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stop.set())
    stop.wait()
    log.info("stopping: nobody new is let in, sessions have %.0f s to end", fleet.drain_s)
    ray.serve.delete(APP)
    ray.serve.shutdown()


if __name__ == "__main__":
    main()
