"""The connections of one client, whose negotiation is cut off anywhere when it goes away."""

import asyncio
import contextlib
import json
from collections.abc import Awaitable, Iterable

import pytest
from aiortc import MediaStreamTrack, RTCPeerConnection, RTCSessionDescription
from aiortc.mediastreams import AudioStreamTrack
from aiortc.sdp import SessionDescription
from livekit.protocol import rtc

from serve.live.http.peer import close_connection
from serve.live.room.links import LinkEvents, Links
from tests.serve.live.server_kit import nothing_left_behind

STEPS = 60  # of the event loop, after each of which a client goes away


def links(*, one_connection: bool, hears: Iterable[bool] = ()) -> Links:
    tracks: dict[str, MediaStreamTrack] = {} if one_connection else {"voice": AudioStreamTrack()}
    heard, ignored = iter(hears), lambda *event: None
    events = LinkEvents(
        packet=ignored, audio=lambda track: next(heard), video=lambda *_: False, channel=ignored, state=ignored
    )
    return Links(one_connection, tracks, [], events)


async def offer_of(client: RTCPeerConnection) -> rtc.SessionDescription:
    await client.setLocalDescription(await client.createOffer())
    return rtc.SessionDescription(type="offer", sdp=client.localDescription.sdp, id=7)


async def answer(server: Links, client: RTCPeerConnection) -> Awaitable[object]:
    client.addTrack(AudioStreamTrack())
    client.createDataChannel("_reliable")
    offered = await offer_of(client)
    await close_connection(client)
    return server.answer(offered)


async def accept(server: Links, client: RTCPeerConnection) -> Awaitable[object]:
    offered = await server.offer()
    await client.setRemoteDescription(RTCSessionDescription(offered.sdp, "offer"))
    await client.setLocalDescription(await client.createAnswer())
    answered = rtc.SessionDescription(type="answer", sdp=client.localDescription.sdp)
    await close_connection(client)
    return server.accept(answered)


async def offer(server: Links, client: RTCPeerConnection) -> Awaitable[object]:
    return server.offer()


@pytest.mark.parametrize("begin", [answer, offer, accept])
def test_a_client_that_goes_amid_a_step_leaves_no_task_and_no_socket(begin):
    """Wherever the step stands when the websocket's handler is cancelled."""

    async def script() -> None:
        for steps in range(STEPS):
            async with nothing_left_behind():
                server, client = links(one_connection=begin is answer, hears=[True]), RTCPeerConnection()
                handler = asyncio.ensure_future(await begin(server, client))
                for _ in range(steps):
                    await asyncio.sleep(0)
                handler.cancel()
                with contextlib.suppress(asyncio.CancelledError):
                    await handler
                await server.close()
                await close_connection(client)
            with pytest.raises(ValueError, match="closed"):
                await server.offer()

    asyncio.run(script())


def test_a_client_sends_the_sound_that_is_listened_to_and_no_other():
    """aiortc decodes what arrives and keeps it until it is read: 192 kB a second for each track."""

    async def script() -> None:
        server, client = links(one_connection=True, hears=[True, False, True]), RTCPeerConnection()

        async def directions() -> list[str | None]:
            answered = await server.answer(await offer_of(client))
            await client.setRemoteDescription(RTCSessionDescription(answered.sdp, "answer"))
            return [part.direction for part in SessionDescription.parse(answered.sdp).media]

        client.addTrack(AudioStreamTrack())
        client.addTrack(AudioStreamTrack())
        assert await directions() == ["recvonly", "inactive"]
        client.addTrack(AudioStreamTrack())
        assert await directions() == ["inactive", "inactive", "recvonly"]
        await close_connection(client)
        await server.close()

    asyncio.run(script())


@pytest.mark.parametrize("way", ["offers", "trickled"])
def test_a_client_names_a_bounded_number_of_addresses_however_often_it_offers(way: str):
    """Packets are sent to each. The same ones again, as in each offer of a browser, are no more."""

    async def script() -> None:
        server, client = links(one_connection=True, hears=[True]), RTCPeerConnection()
        client.addTrack(AudioStreamTrack())
        sdp = (await offer_of(client)).sdp.replace("a=end-of-candidates\r\n", "")
        await close_connection(client)

        async def name(number: int) -> None:
            candidates = [f"candidate:{port} 1 udp 1 192.0.2.1 {port} typ host" for port in range(number, number + 32)]
            if way == "offers":
                lines = "".join(f"a={each}\r\n" for each in candidates)
                await server.answer(rtc.SessionDescription(type="offer", sdp=sdp + lines, id=7))
            for each in candidates if way == "trickled" else []:
                given = json.dumps({"candidate": each, "sdpMid": "0"})
                await server.add_candidate(rtc.TrickleRequest(candidateInit=given, target=rtc.PUBLISHER))

        await server.answer(rtc.SessionDescription(type="offer", sdp=sdp, id=7))
        for number in (0, 0, 0, 0, 0, 32, 64):
            await name(1000 + number)
        with pytest.raises(ValueError, match="more than 128"):
            await name(1096)
            await name(1128)
        await server.close()

    asyncio.run(script())
