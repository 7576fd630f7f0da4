"""The end of a server: SIGTERM while somebody is there."""

import asyncio
import contextlib
import gc
import os
import signal
import socket
from collections.abc import AsyncIterator
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import aiohttp
import pytest
import yaml

from serve.live.avatar.engine_pool import EnginePool
from serve.live.avatar.engine_process import EngineProcess
from serve.live.avatar.process_face import ProcessFace
from serve.live.http.api import Api
from serve.live.http.ice import IceServers
from serve.live.http.server import serve_until_signal
from serve.live.http.session_maker import SessionMaker
from serve.live.options import ServerOptions, SessionOptions
from serve.live.speech.agent import TurnTaking
from tests.serve.live.level_face import TIMING
from tests.serve.live.server_kit import DEADLINE_S, TIMEOUTS, Kit, nothing_left_behind

CONFIG = Path(__file__).parents[4] / "configs" / "serve.yaml"
DRAIN_S = 5.0  # more than a busy machine takes for two requests


def options(**changed: Any) -> ServerOptions:
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    shipped = yaml.safe_load(CONFIG.read_text())
    values = {field.name: shipped[field.name] for field in fields(ServerOptions)}
    values["sessions"] = SessionOptions(**values["sessions"])
    assert values["host"] == "127.0.0.1"  # nobody else, unless told otherwise
    return ServerOptions(**values | {"port": port, "drain_s": DRAIN_S, "lead_ms": float(values["lead_ms"])} | changed)


@contextlib.asynccontextmanager
async def nothing(*parts: object) -> AsyncIterator[None]:
    """Mounted."""
    yield


async def listening(url: str, client: aiohttp.ClientSession) -> None:
    async with asyncio.timeout(DEADLINE_S):
        while True:
            with contextlib.suppress(aiohttp.ClientConnectorError):
                async with client.get(f"{url}/health"):
                    return
            await asyncio.sleep(0.05)


async def told_to_stop(kit: Kit, serving: asyncio.Task[None], url: str, client: aiohttp.ClientSession) -> None:
    await listening(url, client)
    async with client.post(f"{url}/v1/sessions", json={}) as opened:
        assert opened.status == 201
    os.kill(os.getpid(), signal.SIGTERM)
    async with asyncio.timeout(DEADLINE_S):
        while not kit.admission.draining:
            await asyncio.sleep(0.05)
    async with client.post(f"{url}/v1/sessions", json={}) as refused:
        assert refused.status == 429 and refused.headers["Retry-After"] == "60"
    async with client.get(f"{url}/ready") as ready:
        assert ready.status == 503
    assert kit.faces[0].stops == 0 and not serving.done()
    await asyncio.wait_for(asyncio.shield(serving), DRAIN_S + DEADLINE_S)
    assert kit.faces[0].stops == 1 and not kit.admission.sessions


def test_after_sigterm_nobody_new_is_let_in_and_who_is_there_has_time_to_end(monkeypatch: pytest.MonkeyPatch):
    async def run() -> None:
        kit, chosen = Kit(capacity=2, timeouts=TIMEOUTS), options()

        @contextlib.asynccontextmanager
        async def app(*given: object, **more: object) -> AsyncIterator[Api]:
            yield kit.api

        monkeypatch.setattr("serve.live.http.server.running_app", app)
        url = f"http://127.0.0.1:{chosen.port}"
        async with nothing_left_behind(), aiohttp.ClientSession() as client:
            serving = asyncio.create_task(
                serve_until_signal(chosen, timeouts=TIMEOUTS, turn_taking=TurnTaking(), endpoints={}, mount=nothing)
            )
            try:
                await told_to_stop(kit, serving, url, client)
                assert gc.get_freeze_count() > 100_000
            finally:  # also when it was not told
                gc.unfreeze()
                await kit.admission.drain(within_s=0.0)
                serving.cancel()
                await asyncio.wait([serving], timeout=DEADLINE_S)
                kit.pool.close()

    asyncio.run(run())


def test_a_character_that_came_after_the_start_has_no_manner_of_its_own(monkeypatch: pytest.MonkeyPatch):
    """Avatars are made while the server runs."""
    kit = Kit(capacity=1, timeouts=TIMEOUTS)
    monkeypatch.setattr(EnginePool, "place", lambda pool, session_id: object.__new__(EngineProcess))
    engines = object.__new__(EnginePool)  # none runs
    shared: dict[str, Any] = {"engines": engines, "texts": None, "pictures": None}
    shared |= {"profile": None, "timing": TIMING, "seed": 0}
    shared |= {"ice_servers": IceServers([]), "turn_taking": TurnTaking(), "timeouts": TIMEOUTS, "gauges": kit.gauges}
    maker = SessionMaker(**shared, manners={"noa": {"joy": 0.3}})
    manners = {}
    for key in ("noa", "1fcafd47-9b2c-43cb-aef5-c54a43cf4a3d"):
        session = maker.renderer("session", replace(kit.character, key=key), lambda: None)
        assert isinstance(session.face, ProcessFace)
        manners[key] = session.face.manner.action
    assert list(manners.values()) == [{"joy": 0.3}, {}]
    kit.pool.close()
