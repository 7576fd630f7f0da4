"""The connections of one client, whose negotiation is cut off anywhere when it goes away."""

import asyncio
import contextlib
from collections.abc import Awaitable

import pytest
from aiortc import MediaStreamTrack, RTCPeerConnection, RTCSessionDescription
from aiortc.mediastreams import AudioStreamTrack
from livekit.protocol import rtc

from serve.live.room.links import LinkEvents, Links
from tests.serve.live.server_kit import nothing_left_behind

STEPS = 60  # of the event loop, after each of which a client goes away


def links(*, one_connection: bool) -> Links:
    tracks: dict[str, MediaStreamTrack] = {} if one_connection else {"voice": AudioStreamTrack()}
    events = LinkEvents(packet=print, audio=print, channel=lambda: None, state=lambda state: None)
    return Links(one_connection, tracks, [], events)


async def offer_of(client: RTCPeerConnection) -> rtc.SessionDescription:
    await client.setLocalDescription(await client.createOffer())
    return rtc.SessionDescription(type="offer", sdp=client.localDescription.sdp, id=7)


async def answer(server: Links, client: RTCPeerConnection) -> Awaitable[object]:
    client.addTrack(AudioStreamTrack())
    client.createDataChannel("_reliable")
    offered = await offer_of(client)
    await client.close()
    return server.answer(offered)


async def accept(server: Links, client: RTCPeerConnection) -> Awaitable[object]:
    offered = await server.offer()
    await client.setRemoteDescription(RTCSessionDescription(offered.sdp, "offer"))
    await client.setLocalDescription(await client.createAnswer())
    answered = rtc.SessionDescription(type="answer", sdp=client.localDescription.sdp)
    await client.close()
    return server.accept(answered)


async def offer(server: Links, client: RTCPeerConnection) -> Awaitable[object]:
    return server.offer()


@pytest.mark.parametrize("begin", [answer, offer, accept])
def test_a_client_that_goes_amid_a_step_leaves_no_task_and_no_socket(begin):
    """Wherever the step stands when the websocket's handler is cancelled."""

    async def script() -> None:
        for steps in range(STEPS):
            async with nothing_left_behind():
                server, client = links(one_connection=begin is answer), RTCPeerConnection()
                handler = asyncio.ensure_future(await begin(server, client))
                for _ in range(steps):
                    await asyncio.sleep(0)
                handler.cancel()
                with contextlib.suppress(asyncio.CancelledError):
                    await handler
                await server.close()
                await client.close()
            with pytest.raises(ValueError, match="closed"):
                await server.offer()

    asyncio.run(script())
