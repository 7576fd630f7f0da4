"""A fleet on three nodes of one machine; prints what happened as JSON. Runs where Ray is installed.

python fleet_program.py ARTIFACT STORE_URL nodes|growth
"""

import asyncio
import json
import logging
import os
import signal
import socket
import sys
import time
from collections.abc import Callable
from functools import partial
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
from serve.store.tables import Session  # noqa: E402

SESSION = {"model": "gwm1_avatars", "avatar": {"type": "runway-preset", "presetId": "game-character"}}
MEMORY_BYTES = 80 * 2**20
BEGIN_S = time.time()


def say(*words: object) -> None:
    print(round(time.time() - BEGIN_S, 1), *words, file=sys.stderr, flush=True)


def settings(artifact: str, **changed: Any) -> tuple[ServerSettings, FleetOptions]:
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
    fleet |= {"worker_host": "127.0.0.1", "worker_url": "http://127.0.0.1:{port}", "drain_s": 400.0, "num_cpus": 2.0}
    return ServerSettings.of(values | {"port": port}), FleetOptions(**fleet | changed)


class Client:
    """A program with a secret key."""

    def __init__(
        self, http: aiohttp.ClientSession, url: str, key: str, restart: Callable[[], None], store: Store
    ) -> None:
        """restart: deploys the fleet anew, and returns when it is there."""
        self.restart, self.store = restart, store
        self.http, self.url, self.headers = http, url, {"Authorization": f"Bearer {key}"}

    def owners(self, sessions: list[str]) -> set[str]:
        """Gateways that these wait at."""
        return self.store.do(lambda db: {db.get_one(Session, each).owner or "" for each in sessions}, writes=False)

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

    async def ready(self, url: str) -> tuple[int, dict[str, Any]]:
        """What a worker says to whoever asks whether it has room."""
        async with self.http.get(f"{url}/ready") as answer:
            return answer.status, await answer.json()

    async def listens(self, url: str) -> bool:
        try:
            async with self.http.get(f"{url}/health"):
                return True
        except aiohttp.ClientConnectorError:
            return False

    async def place(self, session: str) -> str:
        """URL of the worker of a session that is READY."""
        ready = await self.until(session, "READY")
        return (await self.ask("POST", f"/realtime_sessions/{session}/consume", key=ready["sessionKey"]))["url"]


async def answers(client: Client) -> None:
    async with asyncio.timeout(60):
        while True:
            try:
                async with client.http.get(f"{client.url}/health"):
                    break
            except aiohttp.ClientConnectorError:
                await asyncio.sleep(0.2)
    say("gateway answers")


async def growth(client: Client, cluster: Cluster, nodes: list[Any]) -> dict[str, Any]:
    """One worker, two gateways that share a port: sessions beyond the worker's places start another, which goes when
    they have ended; whoever waits at a gateway that is killed is let in by the other."""
    await answers(client)
    port = int(client.url.rsplit(":", 1)[1])
    async with asyncio.timeout(120):
        while len(gateways := listeners(port)) < 2:
            await asyncio.sleep(0.5)
    first = [await client.open() for _ in range(2)]
    places = {await client.place(session) for session in first}
    say("two are open", places)
    owners = set[str]()
    waiting = list[str]()
    while len(owners) < 2:  # whichever gateway takes a connection
        waiting.append(await client.open())
        owners = client.owners(waiting)
        assert len(waiting) < 40
    begin = time.time()
    os.kill(gateways.pop(), signal.SIGKILL)
    say("a gateway is killed", len(waiting))
    for session in waiting[2:]:
        await client.ask("DELETE", f"/realtime_sessions/{session}")
    more = [await client.place(session) for session in waiting[:2]]
    result: dict[str, Any] = {
        "grown_s": round(time.time() - begin, 1),
        "first": len(places),
        "grown": len({*places, *more}),
    }
    say("another worker serves", more)
    backend = await client.ask("POST", f"/realtime_sessions/{waiting[0]}/connect_backend")
    result["backend"] = backend["url"] == more[0]
    for session in (*first, *waiting[:2]):
        await client.ask("DELETE", f"/realtime_sessions/{session}")
    begin = time.time()
    async with asyncio.timeout(240):
        while sum([await client.listens(url) for url in {*places, *more}]) > 1:
            await asyncio.sleep(0.5)
    result["shrunk_s"] = round(time.time() - begin, 1)
    say("one worker is left")
    last = await client.open()
    result["last"] = (await client.place(last)) in {*places, *more}
    result["ends"] = [(await client.read(session))["status"] for session in (*first, *waiting[:2])]
    return result


def listeners(port: int) -> set[int]:
    """Processes that listen on a port."""
    import psutil

    found = (each for each in psutil.net_connections("tcp") if each.status == "LISTEN" and each.laddr.port == port)
    return {each.pid for each in found if each.pid is not None}


async def script(client: Client, cluster: Cluster, nodes: list[Any]) -> dict[str, Any]:
    await answers(client)
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
    nodes.remove(node)
    nodes.append(added(cluster))
    await client.until(again, "READY", within_s=150)
    result["new_node_s"] = round(time.time() - begin, 1)
    say("a new node serves")
    live = [session for session in (*first[1:], fifth) if states[session] != "FAILED"]
    for session in live:
        await client.ask("DELETE", f"/realtime_sessions/{session}")
    return result | await drained(client, cluster, nodes, again)


async def drained(client: Client, cluster: Cluster, nodes: list[Any], first: str) -> dict[str, Any]:
    """A node is taken out of service while a session is there: others are let in elsewhere, and it has time to end."""
    url = await client.place(first)
    node = node_of(int(url.rsplit(":", 1)[1]), nodes)
    words = ["drain-node", "--address", cluster.address, "--node-id", node.node_id]
    words += ["--reason", "DRAIN_NODE_REASON_PREEMPTION", "--reason-message", "test"]
    words += ["--deadline-remaining-seconds", "600"]
    process = await asyncio.create_subprocess_exec(sys.executable, "-m", "ray.scripts.scripts", *words)
    assert await process.wait() == 0
    say("a node drains")
    async with asyncio.timeout(60):
        while (await client.ready(url))[0] != 503:
            await asyncio.sleep(0.2)
    status, told = await client.ready(url)
    more = [await client.open() for _ in range(2)]
    places = [await client.place(session) for session in more]
    result = {"drained_ready": [status, told["draining"]], "drained_gets_new": places.count(url)}
    result["drained_goes_on"] = (await client.read(first))["status"]
    nodes.append(added(cluster))
    await client.ask("DELETE", f"/realtime_sessions/{first}")
    async with asyncio.timeout(240):
        while await client.listens(url):
            await asyncio.sleep(0.5)
    say("the drained worker has ended")
    nodes.remove(node)
    cluster.remove_node(node, allow_graceful=False)
    result["others_of_the_drain"] = [(await client.read(session))["status"] for session in more]
    return result | await restarted(client, more, places)


async def restarted(client: Client, live: list[str], before: list[str]) -> dict[str, Any]:
    """Every worker and the gateway are replaced, one after the other, while sessions are open and others wait."""
    asked = [await client.open() for _ in range(3)]  # one more than there are places
    restart = asyncio.create_task(asyncio.to_thread(client.restart))
    say("a rolling restart begins")
    await asyncio.sleep(8)
    await answers(client)
    during = [(await client.read(session))["status"] for session in live]
    for session in live:  # its owner leaves, as sooner or later everybody does
        await client.ask("DELETE", f"/realtime_sessions/{session}")
    async with asyncio.timeout(240):
        while (states := [(await client.read(session))["status"] for session in asked]).count("READY") < 2:
            assert "FAILED" not in states, states
            await asyncio.sleep(0.3)
    for session, status in zip(asked, states, strict=True):
        if status == "READY":
            await client.ask("DELETE", f"/realtime_sessions/{session}")
    last = asked[states.index("NOT_READY")] if "NOT_READY" in states else None
    if last is not None:
        await client.until(last, "READY", within_s=170)
        await client.ask("DELETE", f"/realtime_sessions/{last}")
    await restart
    say("the restart is over")
    new = await client.open()
    place = await client.place(new)
    ends = [(await client.read(session))["status"] for session in (*live, *asked)]
    return {"during": during, "restart_ends": ends, "replaced": place not in before}


def added(cluster: Cluster) -> Any:
    """One more node of the cluster. Ray waits half a minute for its start, which a busy machine may need more than."""
    for left in reversed(range(3)):
        try:
            return cluster.add_node(num_cpus=2, object_store_memory=MEMORY_BYTES)
        except Exception as error:  # of no kind of its own
            if left == 0 or "timed out during startup" not in str(error):
                raise
            say("a node did not start in time")
    raise AssertionError("one of them returned or raised")


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


SCRIPTS: dict[str, tuple[Any, dict[str, Any]]] = {
    "nodes": (script, {}),
    "growth": (growth, {"workers": 1, "max_workers": 2, "gateways": 2, "target": 1.0, "up_s": 1.0, "down_s": 10.0}),
}


def main(artifact: str, url: str, which: str) -> None:
    play, layout = SCRIPTS[which]
    chosen, fleet = settings(artifact, **layout)
    store = Store(url)
    key = store.do(lambda db: add_key(db, "test", Limits(origins=[])))
    head = {"num_cpus": 1, "object_store_memory": MEMORY_BYTES, "include_dashboard": False}
    cluster = Cluster(initialize_head=True, head_node_args=head)
    nodes = [added(cluster) for _ in range(2)]
    ray.init(address=cluster.address, log_to_driver="GWM_RAY_LOG" in os.environ, logging_level=logging.ERROR)
    say("three nodes are up")
    try:
        deploy = partial(run, chosen, fleet, ApiOptions(store=url, public_url=None, retention_days=None))
        deploy()
        say("the fleet is up")

        async def talk() -> dict[str, Any]:
            one_each = aiohttp.TCPConnector(force_close=True)  # so that each request may reach another gateway
            async with aiohttp.ClientSession(connector=one_each) as http:
                client = Client(http, f"http://127.0.0.1:{chosen.options.port}", key, deploy, store)
                return await play(client, cluster, nodes)

        print(json.dumps(asyncio.run(talk())), flush=True)
    finally:
        ray.shutdown()
        cluster.shutdown()
        store.close()


if __name__ == "__main__":
    main(*sys.argv[1:])
