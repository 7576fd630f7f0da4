"""A connection that ends while it begins."""

import asyncio

import aioice
import pytest
from aiortc import RTCPeerConnection

from serve.live.http.peer import close_connection
from tests.serve.live.server_kit import nothing_left_behind


def test_what_begins_in_the_moment_of_closing_ends_too(monkeypatch: pytest.MonkeyPatch):
    """`connect` of aioice goes on behind its last wait although everything was closed meanwhile."""
    close = aioice.Connection.close
    begun: list[asyncio.Task[None]] = []

    async def closed_meanwhile(connection: aioice.Connection) -> None:
        await close(connection)
        connection._query_consent_task = asyncio.create_task(connection.query_consent())
        begun.append(connection._query_consent_task)

    async def run() -> None:
        async with nothing_left_behind():
            one, other = RTCPeerConnection(), RTCPeerConnection()
            one.createDataChannel("words")
            one.addTransceiver("audio")
            await one.setLocalDescription(await one.createOffer())
            await other.setRemoteDescription(one.localDescription)
            await other.setLocalDescription(await other.createAnswer())
            await one.setRemoteDescription(other.localDescription)
            while one.iceConnectionState != "completed" or other.iceConnectionState != "completed":
                await asyncio.sleep(0.01)
            monkeypatch.setattr(aioice.Connection, "close", closed_meanwhile)
            for each in (one, other):
                await close_connection(each)
        assert begun and all(task.cancelled() for task in begun)

    asyncio.run(run())
