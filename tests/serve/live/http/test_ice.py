"""STUN and TURN servers, given to both ends; and media by way of a real coturn, where Debian's is installed."""

import asyncio
import shutil
import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import pytest
from aiohttp.test_utils import TestClient
from aiortc import RTCConfiguration, RTCIceServer, RTCIceTransportPolicy, RTCPeerConnection
from livekit.protocol import rtc

from serve.live.http.ice import SECRET_VARIABLE, IceServers
from serve.live.http.peer import close_connection
from serve.live.room.descriptions import join_response
from serve.live.room.tokens import Grant
from tests.serve.live.http.test_conversation import talked, until
from tests.serve.live.server_kit import DEADLINE_S, Browser, Kit, opened

TURN = shutil.which("turnserver")
URLS = ["stun:stun.example.org:3478", "turn:turn.example.org:3478?transport=udp"]
SECRET = "north"


def test_credentials_are_what_the_relay_computes_from_its_secret(monkeypatch: pytest.MonkeyPatch):
    """printf 1800000000:abc | openssl dgst -sha1 -hmac north -binary | base64"""
    monkeypatch.setattr(time, "time", lambda: 1_799_996_400.0)
    open_to_all, relay = IceServers(URLS, SECRET).servers("abc", seconds=3600.0)
    assert open_to_all == RTCIceServer(URLS[:1])
    assert relay == RTCIceServer(URLS[1:], "1800000000:abc", "8mE1mCdEjNur0DF8ID/k1yDKnFY=")
    assert IceServers([]).servers("abc", seconds=3600.0) == []


def test_a_relay_needs_the_secret_of_the_environment(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.delenv(SECRET_VARIABLE, raising=False)
    assert IceServers.of(URLS[:1]).secret == ""
    with pytest.raises(ValueError, match=rf"ice_servers has 'turn:.*needs {SECRET_VARIABLE} in the environment"):
        IceServers.of(URLS)
    monkeypatch.setenv(SECRET_VARIABLE, SECRET)
    assert IceServers.of(URLS) == IceServers(URLS, SECRET)


def test_a_page_is_told_them_for_its_sessions_key_as_often_as_it_connects():
    async def script(kit: Kit, client: TestClient) -> None:
        kit.ice_servers = IceServers(URLS, SECRET)
        session = await opened(client)
        url = f"/v1/sessions/{session['id']}/ice_servers"
        async with client.get(url, headers={"Authorization": "Bearer guessed"}) as refused:
            assert refused.status == 403
        for _ in range(2):
            async with client.get(url, headers={"Authorization": f"Bearer {session['session_key']}"}) as answer:
                assert answer.headers["Cache-Control"] == "no-store"
                stun, turn = (await answer.json())["ice_servers"]
        assert stun == {"urls": URLS[:1]} and turn["urls"] == URLS[1:]
        expires, name = turn["username"].split(":")
        lasts_s = kit.timeouts.connect_s + kit.timeouts.session_s
        assert name == session["id"] and abs(int(expires) - time.time() - lasts_s) < DEADLINE_S

    talked(script)


def test_clients_of_rooms_are_told_them_when_they_join():
    servers = IceServers(URLS, SECRET).servers("abc", seconds=60.0)
    joined = join_response(Grant(identity="a", room="r", hidden=False), "PA", [], servers, one_connection=True)
    stun, turn = joined.join.ice_servers
    assert stun == rtc.ICEServer(urls=URLS[:1])
    assert turn == rtc.ICEServer(urls=URLS[1:], username=servers[1].username, credential=servers[1].credential)


@contextmanager
def coturn(folder: Path) -> Iterator[str]:
    """The URL of a relay of this machine, with the secret."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    words = [f"--listening-port={port}", "--listening-ip=127.0.0.1", "--relay-ip=127.0.0.1", "--allow-loopback-peers"]
    words += ["--use-auth-secret", f"--static-auth-secret={SECRET}", "--realm=gwm", "--no-tls", "--no-dtls", "--no-cli"]
    words += ["--log-file=stdout", f"--pidfile={folder}/pid"]
    with open(folder / "log", "w") as log:
        relay = subprocess.Popen([TURN or "", "-n", *words], stdout=log, cwd=folder)
        try:
            yield f"turn:127.0.0.1:{port}?transport=udp"
        finally:
            relay.terminate()
            relay.wait(10)


@pytest.mark.slow
@pytest.mark.skipif(TURN is None, reason="no coturn: apt-get install coturn")
def test_sound_and_picture_come_by_a_real_relay_to_whoever_has_no_other_way(tmp_path: Path):
    async def script(kit: Kit, client: TestClient) -> None:
        kit.ice_servers = IceServers([url], SECRET)
        session = await opened(client)
        headers = {"Authorization": f"Bearer {session['session_key']}"}
        async with client.get(f"/v1/sessions/{session['id']}/ice_servers", headers=headers) as answer:
            (relay,) = (RTCIceServer(**given) for given in (await answer.json())["ice_servers"])
        alone = RTCConfiguration([relay], iceTransportPolicy=RTCIceTransportPolicy.RELAY)
        async with Browser(configuration=alone) as browser:
            await browser.connect(client, session)
            await until(lambda: len(browser.pictures) > 13 and len(browser.sounds) > 25)
            offered = [line for line in browser.connection.localDescription.sdp.splitlines() if "a=candidate" in line]
            assert offered and all(" typ relay " in line for line in offered)
        stale = replace(relay, username=f"{int(time.time()) - 60}:{session['id']}")
        for wrong in (replace(relay, credential="guessed"), stale):
            connection = RTCPeerConnection(RTCConfiguration([wrong]))
            connection.createDataChannel("events")
            await connection.setLocalDescription(await connection.createOffer())
            assert " typ relay " not in connection.localDescription.sdp
            await close_connection(connection)

    with coturn(tmp_path) as url:
        asyncio.run(asyncio.sleep(0.5))
        talked(script)
