"""Signalling that no client sends: each ends in words or is ignored, and leaves no task, socket or place behind."""

import asyncio
import random
from collections.abc import Awaitable, Callable
from pathlib import Path

from aiohttp import ClientWebSocketResponse, WSServerHandshakeError
from livekit.protocol import models, rtc

from tests.serve.live.room.room_kit import Room, RoomClient, consumed, join_query, until
from tests.serve.live.server_kit import DEADLINE_S, GREETING, open_sockets
from tests.serve.runway_api.api_kit import Served, served

SEED, TRIES = 11, 40
SDP = "v=0\r\no=- 0 0 IN IP4 0.0.0.0\r\ns=-\r\nt=0 0\r\nm=audio 9 UDP/TLS/RTP/SAVPF 0\r\n"


def rude(rng: random.Random) -> bytes | str:
    """A message with fields of the right types and no sense, half of one, or noise."""
    text = "".join(rng.choice('\0aZ{"%\u00e9\n') for _ in range(rng.choice((0, 3, 4_000))))
    number = rng.choice((0, 1, 2**31 - 1))
    description = rtc.SessionDescription(type=rng.choice(("offer", text)), sdp=rng.choice((text, SDP)), id=number)
    whole = rng.choice(
        (
            rtc.SignalRequest(offer=description),
            rtc.SignalRequest(answer=description),
            rtc.SignalRequest(trickle=rtc.TrickleRequest(candidateInit=text, target=rtc.SUBSCRIBER)),
            rtc.SignalRequest(trickle=rtc.TrickleRequest(candidateInit='{"candidate": "candidate:1 1 udp"}')),
            rtc.SignalRequest(add_track=rtc.AddTrackRequest(cid=text, name=text, type=models.VIDEO, width=number)),
            rtc.SignalRequest(ping_req=rtc.Ping(timestamp=-number)),
            rtc.SignalRequest(sync_state=rtc.SyncState()),
            rtc.SignalRequest(mute=rtc.MuteTrackRequest(sid=text, muted=True)),
            rtc.SignalRequest(update_metadata=rtc.UpdateParticipantMetadata(metadata=text)),
            rtc.SignalRequest(),
        )
    ).SerializeToString()
    return rng.choice((whole, whole, whole, whole[: len(whole) // 2], rng.randbytes(40), text))


async def admitted(join: Callable[[], Awaitable[ClientWebSocketResponse]]) -> ClientWebSocketResponse:
    """The websocket, as soon as those who went have left the room."""
    async with asyncio.timeout(DEADLINE_S):
        while True:
            try:
                return await join()
            except WSServerHandshakeError as refusal:
                assert refusal.status == 429
            await asyncio.sleep(0.1)


async def pestered(one: Served, room: Room, rng: random.Random) -> list[str | None]:
    """Join and send nonsense until the server ends it, or go without a word; the kinds of messages that came."""
    path = rng.choice(("/rtc", "/rtc/v1"))
    query = {"join_request": join_query(rng.choice(("", SDP)))} if path == "/rtc/v1" else {}
    headers = {"Authorization": f"Bearer {room['token']}"}
    socket = await admitted(lambda: one.http.ws_connect(path, params=query, headers=headers))
    for _ in range(rng.randrange(12)):
        message = rude(rng)
        if socket.closed:
            break
        await (socket.send_str(message) if isinstance(message, str) else socket.send_bytes(message))
    if rng.random() < 0.5:
        socket._response.connection.transport.abort()  # type: ignore[union-attr]
        return []
    await socket.send_bytes(rtc.SignalRequest(leave=rtc.LeaveRequest()).SerializeToString())
    async with asyncio.timeout(DEADLINE_S):
        return [rtc.SignalResponse.FromString(message.data).WhichOneof("message") async for message in socket]


def test_nonsense_ends_a_clients_stay_and_the_room_serves_the_next_one(tmp_path: Path):
    async def script(one: Served) -> None:
        rng = random.Random(SEED)
        _, room = await consumed(one)
        came: list[list[str | None]] = []
        sockets = open_sockets()
        for _ in range(TRIES // 4):
            came += await asyncio.gather(*(pestered(one, room, rng) for _ in range(4)))
        await until(lambda: open_sockets() <= sockets)
        stayed = [kinds for kinds in came if kinds]
        assert len(stayed) > TRIES // 4 and all((kinds[0], kinds[-1]) == ("join", "leave") for kinds in stayed)
        async with RoomClient() as client:
            await client.join(one.http, room)
            await client.said(GREETING)

    served(script, tmp_path)  # asserts that no task, no socket and no place is left, also of the session itself
