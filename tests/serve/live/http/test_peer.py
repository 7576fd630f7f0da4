"""A connection that ends while it begins."""

import asyncio

import aioice
import pytest
from aiortc import RTCPeerConnection, RTCSctpTransport
from aiortc.rtcdtlstransport import RTCDtlsParameters, RTCDtlsTransport

from serve.live.http.peer import close_connection
from tests.serve.live.server_kit import nothing_left_behind


async def connected_pair() -> tuple[RTCPeerConnection, RTCPeerConnection]:
    """Two ends that know each other's descriptions and begin to connect."""
    one, other = RTCPeerConnection(), RTCPeerConnection()
    one.createDataChannel("words")
    one.addTransceiver("audio")
    await one.setLocalDescription(await one.createOffer())
    await other.setRemoteDescription(one.localDescription)
    await other.setLocalDescription(await other.createAnswer())
    await one.setRemoteDescription(other.localDescription)
    return one, other


def test_no_media_begin_while_a_connection_is_closed(monkeypatch: pytest.MonkeyPatch):
    """Both ends have agreed on keys when one closes, and would send and receive next."""
    agree, end_words = RTCDtlsTransport.start, RTCSctpTransport.stop
    agreed, closing = list[RTCDtlsTransport](), asyncio.Event()

    async def agrees(transport: RTCDtlsTransport, remote: RTCDtlsParameters) -> None:
        await agree(transport, remote)
        agreed.append(transport)
        await closing.wait()

    async def ends_words(words: RTCSctpTransport) -> None:
        closing.set()
        await asyncio.sleep(0.05)
        await end_words(words)

    async def run() -> None:
        async with nothing_left_behind():
            one, other = await connected_pair()
            while len(agreed) < 2:
                await asyncio.sleep(0.01)
            assert {transport.state for transport in agreed} == {"connected"}
            for each in (one, other):
                await close_connection(each)
            assert not [task for task in asyncio.all_tasks() if "_run_rt" in repr(task.get_coro())]
        assert {transport.state for transport in agreed} == {"closed"}

    monkeypatch.setattr(RTCDtlsTransport, "start", agrees)
    monkeypatch.setattr(RTCSctpTransport, "stop", ends_words)
    asyncio.run(run())


@pytest.mark.parametrize("after_s", [0.0, 0.05])
def test_what_begins_after_closing_ends_too(monkeypatch: pytest.MonkeyPatch, after_s: float):
    """`connect` of aioice sleeps between two checks: everything may be closed meanwhile, and it goes on afterwards."""
    close = aioice.Connection.close
    begun: list[asyncio.Task[None]] = []

    async def goes_on(connection: aioice.Connection) -> None:
        await asyncio.sleep(after_s)
        begun.append(asyncio.create_task(connection.query_consent()))

    async def closed_meanwhile(connection: aioice.Connection) -> None:
        await close(connection)
        begun.append(asyncio.create_task(goes_on(connection)))

    async def run() -> None:
        async with nothing_left_behind():
            one, other = await connected_pair()
            while one.iceConnectionState != "completed" or other.iceConnectionState != "completed":
                await asyncio.sleep(0.01)
            monkeypatch.setattr(aioice.Connection, "close", closed_meanwhile)
            for each in (one, other):
                await close_connection(each)
            monkeypatch.undo()
        assert len(begun) == 4 and all(task.done() for task in begun)

    asyncio.run(run())
