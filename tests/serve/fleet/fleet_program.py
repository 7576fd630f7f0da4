"""A fleet on three nodes of one machine; prints what happened as JSON. Runs where Ray is installed.

python fleet_program.py ARTIFACT FOLDER
"""

import asyncio
import json
import logging
import os
import socket
import sys
import time
from pathlib import Path
from typing import Any

import aiohttp
import yaml

ROOT = Path(__file__).parents[3]
os.environ.update(
    RAY_USAGE_STATS_ENABLED="0",
    RAY_worker_niceness="0",
    RAY_ENABLE_UV_RUN_RUNTIME_ENV="0",
    OMP_NUM_THREADS="1",
    PYTHONPATH=str(ROOT),
)
sys.path.insert(0, str(ROOT))

import ray  # noqa: E402
from ray.cluster_utils import Cluster  # noqa: E402

from serve.fleet.__main__ import run  # noqa: E402
from serve.fleet.options import FleetOptions  # noqa: E402
from serve.runway_api.mount import ApiOptions  # noqa: E402
from serve.settings import ServerSettings  # noqa: E402
from serve.store.database import Store  # noqa: E402
from serve.store.keys import Limits, add_key  # noqa: E402

SESSION = {"model": "gwm1_avatars", "avatar": {"type": "runway-preset", "presetId": "game-character"}}
MEMORY_BYTES = 80 * 2**20
BEGIN_S = time.time()


def say(*words: object) -> None:
    print(round(time.time() - BEGIN_S, 1), *words, file=sys.stderr, flush=True)


def settings(artifact: str) -> tuple[ServerSettings, FleetOptions]:
    values = yaml.safe_load((ROOT / "configs" / "serve.yaml").read_text())
    fleet = yaml.safe_load((ROOT / "configs" / "fleet.yaml").read_text())["fleet"]
    for name in ("defaults", "hydra", "log_json", *ApiOptions.__slots__):
        values.pop(name)
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    nowhere = {"url": "http://127.0.0.1:9/v1", "model": "none", "key_variable": "NONE", "first_byte_s": 1.0}
    values |= {"artifact": artifact, "characters": str(ROOT / "serve/live/characters"), "port": 0, "llm": "rules"}
    values |= {"stt": "openai", "tts": "openai", "capacity": 2, "lead_ms": 300.0, "device": "cpu"}
    values |= {"endpoints": {"stt": nowhere, "llm": nowhere, "tts": nowhere | {"voice": "alloy"}}}
    values |= {"timeouts": {"connect_s": 900.0, "reconnect_s": 900.0, "session_s": 1800.0}, "drain_s": 0.0}
    fleet |= {"worker_host": "127.0.0.1", "worker_url": "http://127.0.0.1:{port}", "drain_s": 40.0, "num_cpus": 2.0}
    return ServerSettings.of(values | {"port": port}), FleetOptions(**fleet)


class Client:
    """A program with a secret key."""

    def __init__(self, http: aiohttp.ClientSession, url: str, key: str) -> None:
        self.http, self.url, self.headers = http, url, {"Authorization": f"Bearer {key}"}

    async def ask(self, method: str, path: str, body: Any = None, *, key: str | None = None) -> Any:
        headers = {"Authorization": f"Bearer {key}"} if key else self.headers
        async with self.http.request(method, f"{self.url}/v1{path}", json=body, headers=headers) as answer:
            assert answer.status in (200, 204), (method, path, answer.status, await answer.text())
            return await answer.json() if answer.status == 200 else None

    async def open(self) -> str:
        return (await self.ask("POST", "/realtime_sessions", SESSION))["id"]

    async def read(self, session: str) -> dict[str, Any]:
        return await self.ask("GET", f"/realtime_sessions/{session}")

    async def until(self, session: str, *statuses: str, within_s: float = 60.0) -> dict[str, Any]:
        async with asyncio.timeout(within_s):
            while (found := await self.read(session))["status"] not in statuses:
                await asyncio.sleep(0.1)
        return found

    async def place(self, session: str) -> str:
        """URL of the worker of a session that is READY."""
        ready = await self.until(session, "READY")
        return (await self.ask("POST", f"/realtime_sessions/{session}/consume", key=ready["sessionKey"]))["url"]


async def script(client: Client, cluster: Cluster, nodes: list[Any]) -> dict[str, Any]:
    async with asyncio.timeout(60):
        while True:
            try:
                async with client.http.get(f"{client.url}/health"):
                    break
            except aiohttp.ClientConnectorError:
                await asyncio.sleep(0.2)
    say("gateway answers")
    first = [await client.open() for _ in range(4)]
    places = {session: await client.place(session) for session in first}
    say("four are open", places)
    fifth = await client.open()
    async with asyncio.timeout(30):
        while not (found := await client.read(fifth)).get("queued"):
            await asyncio.sleep(0.1)
    say("the fifth waits", found)
    backend = await client.ask("POST", f"/realtime_sessions/{first[0]}/connect_backend")
    await client.ask("DELETE", f"/realtime_sessions/{first[0]}")
    begin = time.time()
    await client.until(fifth, "READY")
    say("the fifth is in")
    result: dict[str, Any] = {
        "places": sorted(map(list(places.values()).count, set(places.values()))),
        "fifth": "let in",
        "backend": backend["url"] == places[first[0]],
        "fifth_s": round(time.time() - begin, 1),
    }
    live = [*first[1:], fifth]
    killed_url = places[first[1]]
    port = int(killed_url.rsplit(":", 1)[1])
    node = node_of(port, nodes)
    begin = time.time()
    cluster.remove_node(node, allow_graceful=False)
    say("a node is killed")
    states: dict[str, str] = {}
    while time.time() - begin < 30:
        states = {session: (await client.read(session))["status"] for session in live}
        if list(states.values()).count("FAILED"):
            break
        await asyncio.sleep(0.2)
    result["failed_s"] = round(time.time() - begin, 1)
    await asyncio.sleep(3)
    states = {session: (await client.read(session))["status"] for session in live}
    say("states", states)
    there = {session for session in first[1:] if places[session] == killed_url}
    result["lost"] = all(states[session] == "FAILED" for session in there)
    result["others_go_on"] = all(states[session] != "FAILED" for session in first[1:] if session not in there)
    begin, again = time.time(), await client.open()
    cluster.add_node(num_cpus=2, object_store_memory=MEMORY_BYTES)
    await client.until(again, "READY", within_s=150)
    result["new_node_s"] = round(time.time() - begin, 1)
    say("a new node serves")
    return result


def node_of(port: int, nodes: list[Any]) -> Any:
    """The node whose worker listens on the port."""
    import psutil

    for connection in psutil.net_connections("tcp"):
        if connection.status == "LISTEN" and connection.laddr.port == port:
            raylets = {node.node_id: node for node in nodes}
            environment = psutil.Process(connection.pid).environ()
            return (
                raylets[environment["RAY_NODE_ID"]]
                if "RAY_NODE_ID" in environment
                else by_parent(connection.pid, nodes)
            )
    raise AssertionError(f"nobody listens on port {port}")


def by_parent(pid: int, nodes: list[Any]) -> Any:
    import psutil

    parents = {parent.pid for parent in psutil.Process(pid).parents()}
    for node in nodes:
        processes = [info.process.pid for infos in node.all_processes.values() for info in infos]
        if parents & set(processes):
            return node
    raise AssertionError("the worker belongs to no node")


def main(artifact: str, folder: str) -> None:
    chosen, fleet = settings(artifact)
    store = Store(url := f"sqlite:///{folder}/gwm.sqlite")
    key = store.do(lambda db: add_key(db, "test", Limits(origins=[])))
    store.close()
    head = {"num_cpus": 1, "object_store_memory": MEMORY_BYTES, "include_dashboard": False}
    cluster = Cluster(initialize_head=True, head_node_args=head)
    nodes = [cluster.add_node(num_cpus=2, object_store_memory=MEMORY_BYTES) for _ in range(2)]
    ray.init(address=cluster.address, log_to_driver="GWM_RAY_LOG" in os.environ, logging_level=logging.ERROR)
    say("three nodes are up")
    try:
        run(chosen, fleet, ApiOptions(store=url, public_url=None, retention_days=None))
        say("the fleet is up")

        async def talk() -> dict[str, Any]:
            async with aiohttp.ClientSession() as http:
                return await script(Client(http, f"http://127.0.0.1:{chosen.options.port}", key), cluster, nodes)

        print(json.dumps(asyncio.run(talk())), flush=True)
    finally:
        ray.shutdown()
        cluster.shutdown()


if __name__ == "__main__":
    main(*sys.argv[1:])
