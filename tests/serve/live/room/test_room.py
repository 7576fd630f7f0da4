"""Clients of LiveKit's signalling in a session: what they see, hear, say, and how it ends."""

import asyncio
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from aiohttp import WSServerHandshakeError
from livekit.protocol import models, rtc

from serve.live.http.peer import MESSAGE_CHARS
from serve.live.room import packets
from serve.live.room.tokens import Tokens
from tests.serve.live.room.room_kit import Room, RoomClient, consumed, join_query, until
from tests.serve.live.server_kit import GREETING, TIMEOUTS
from tests.serve.runway_api.api_kit import Served, served
from tests.serve.runway_api.test_rooms import opened
from tests.serve.runway_api.test_session_tools import LAMP, calls_of, speaking_model


@pytest.mark.parametrize("two", [False, True], ids=["one connection", "two connections"])
def test_a_client_sees_hears_reads_and_speaks_and_ends_the_call(two: bool, tmp_path: Path):
    async def script(one: Served) -> None:
        path, room = await consumed(one)
        async with RoomClient(two=two) as client:
            joined = await client.join(one.http, room)
            (character,) = joined.other_participants
            assert (character.name, joined.room.name) == ("Noa", room["roomName"])
            assert [(track.source, track.sid) for track in character.tracks] == [
                (models.MICROPHONE, "TR_voice"),
                (models.CAMERA, "TR_face"),
            ]
            assert two or sorted(client.mids.values()) == ["TR_face", "TR_voice"]
            assert (await client.said(GREETING)).text == GREETING
            await one.until(path, "RUNNING")
            client.say({"type": "text", "text": "What is your name?"})
            await client.said("My name is Noa.")
            speakers = [
                each.speakers_changed.speakers[0].active for each in client.signals if each.HasField("speakers_changed")
            ]
            assert speakers[:3] == [True, False, True]
            await until(lambda: len(client.media["video"]) > 24 and len(client.media["audio"]) > 50)
            (face,) = one.kit.faces
            await until(lambda: len(face.users) > 3)  # the engine runs, on whatever the microphone brings
            track = (await client.signal("track_subscribed")).track_subscribed.track_sid
            assert track == (await client.signal("track_published")).track_published.track.sid
            client.say({"type": "END_CALL"})
            await client.ended.wait()
            leave = (await client.signal("leave")).leave
            assert (leave.action, leave.reason) == (rtc.LeaveRequest.DISCONNECT, models.ROOM_DELETED)
        await one.until(path, "COMPLETED")

    served(script, tmp_path)


def test_texts_come_as_streams_of_lk_chat_and_as_chat_messages(tmp_path: Path):
    async def script(one: Served) -> None:
        _, room = await consumed(one)
        async with RoomClient() as client:
            await client.join(one.http, room)
            await client.said(GREETING)
            header = models.DataStream.Header(
                stream_id="s", topic="lk.chat", text_header=models.DataStream.TextHeader()
            )
            client.send(stream_header=header)
            for index, part in enumerate((b"What is your ", b"name?")):
                client.send(stream_chunk=models.DataStream.Chunk(stream_id="s", chunk_index=index, content=part))
            client.send(stream_trailer=models.DataStream.Trailer(stream_id="s"))
            await client.said("My name is Noa.")
            client.send(chat_message=models.ChatMessage(message="Hello?"))
            await until(lambda: sum(each.HasField("transcription") for each in client.packets) > 10)
            client.say("no JSON")
            assert "JSON" in (await client.message("error"))["message"]

    served(script, tmp_path)


def test_texts_in_parts_are_bounded():
    streams = packets.TextStreams()
    header = lambda name: models.DataPacket(stream_header=models.DataStream.Header(stream_id=name, topic="lk.chat"))  # noqa: E731
    for number in range(packets.OPEN_STREAMS):
        assert streams.take(header(str(number))) is None
    with pytest.raises(ValueError, match="begun and not ended"):
        streams.take(header("more"))
    streams.take(header("long"))
    chunk = models.DataStream.Chunk(stream_id="long", content=b"x" * packets.TEXT_BYTES)
    assert streams.take(models.DataPacket(stream_chunk=chunk)) is None
    with pytest.raises(ValueError, match="at most 2000"):
        streams.take(models.DataPacket(stream_chunk=chunk))
    trailer = models.DataPacket(stream_trailer=models.DataStream.Trailer(stream_id="long"))
    assert streams.take(trailer) is None


@pytest.mark.parametrize("kind", ["stream", "message"])
def test_a_text_has_as_many_characters_as_on_a_page(kind: str):
    streams = packets.TextStreams()

    def taken(text: str) -> str | None:
        if kind == "message":
            return streams.take(models.DataPacket(chat_message=models.ChatMessage(message=text)))
        streams.take(models.DataPacket(stream_header=models.DataStream.Header(stream_id="s", topic="lk.chat")))
        streams.take(models.DataPacket(stream_chunk=models.DataStream.Chunk(stream_id="s", content=text.encode())))
        return streams.take(models.DataPacket(stream_trailer=models.DataStream.Trailer(stream_id="s")))

    assert taken("x" * MESSAGE_CHARS) == "x" * MESSAGE_CHARS
    with pytest.raises(ValueError, match="at most 2000"):
        taken("x" * (MESSAGE_CHARS + 1))


def test_a_program_answers_calls_by_rpc_until_it_goes(tmp_path: Path):
    async def script(one: Served) -> None:
        async with speaking_model(one):
            path, room = await consumed(one, tools=[LAMP], startScript="Hi!")
            backend_room = await one.ask("POST", f"{path}/connect_backend")
            async with RoomClient() as client:
                await client.join(one.http, room)
                await client.said("Hi!")
                async with RoomClient(listens=False, speaks=False) as backend:
                    joined = await backend.join(one.http, backend_room)
                    assert joined.participant.permission.hidden
                    await until(lambda: backend.channel.readyState == "open")
                    await asyncio.sleep(0.2)
                    client.say({"type": "text", "text": 'lamp {"room": "hall"}'})
                    asked = (await backend.packet(lambda packet: packet.HasField("rpc_request"))).rpc_request
                    assert (asked.method, json.loads(asked.payload)) == ("lamp", {"args": {"room": "hall"}})
                    assert (asked.version, asked.response_timeout_ms) == (1, 1000)
                    answer = models.RpcResponse(request_id=asked.id, payload='{"on": true}')
                    backend.send(rpc_response=answer)
                    await client.said("Done.")
                    backend.packets.clear()
                    client.say({"type": "text", "text": 'lamp {"room": "attic"}'})
                    asked = (await backend.packet(lambda packet: packet.HasField("rpc_request"))).rpc_request
                    error = models.RpcError(code=1500, message="Broken.")
                    backend.send(rpc_response=models.RpcResponse(request_id=asked.id, error=error))
                    await client.said("Broken.")
                (session,) = one.kit.admission.sessions.values()
                await until(lambda: not session.backend._backends)
                client.say({"type": "text", "text": 'lamp {"room": "hall"}'})
                await client.said("No program is connected")
            first, second, _ = await calls_of(one, path)
            assert first["result"] == {"on": True} and second["error"] == "Broken."

    served(script, tmp_path)


def test_a_program_is_sent_away_when_the_session_ends(tmp_path: Path):
    async def script(one: Served) -> None:
        path, _ = await opened(one)
        room = await one.ask("POST", f"{path}/connect_backend")
        await one.ask("POST", f"{path}/connect_backend", key="wrong", status=401)
        async with RoomClient(listens=False, speaks=False) as backend:
            await backend.join(one.http, room)
            await one.ask("DELETE", path, status=204)
            await backend.ended.wait()
            assert (await backend.signal("leave")).leave.reason == models.ROOM_DELETED
        await one.ask("POST", f"{path}/connect_backend", status=404)

    served(script, tmp_path)


async def refused(one: Served, room: Room, path: str = "/rtc/v1", **query: str) -> int:
    """The status with which a client is not let in, which `validate` also has."""
    headers = {"Authorization": f"Bearer {room['token']}"}
    with pytest.raises(WSServerHandshakeError) as refusal:
        await one.http.ws_connect(path, headers=headers, params=query)
    return refusal.value.status


def test_a_room_opens_for_its_own_token_alone(tmp_path: Path):
    async def script(one: Served) -> None:
        path, room = await consumed(one)
        for wrong in ("", "no token", Tokens().sign(room["roomName"], hidden=False, seconds=60.0)):
            assert await refused(one, {"token": wrong}) == 403
            async with one.http.get("/rtc/v1/validate", params={"access_token": wrong}) as answer:
                assert answer.status == 403 and "access token" in (await answer.json())["error"]
        assert await refused(one, room, join_request="%%%") == 400
        async with one.http.get("/rtc/v1/validate", params={"access_token": room["token"]}) as answer:
            assert answer.status == 200 and answer.headers["Access-Control-Allow-Origin"] == "*"
        await one.ask("DELETE", path, status=204)
        await until(lambda: not one.kit.admission.sessions)
        assert await refused(one, room) == 404

    served(script, tmp_path)


def test_a_token_ends():
    tokens = Tokens()
    assert tokens.read(tokens.sign("r", hidden=True, seconds=9.0)).hidden
    with pytest.raises(PermissionError, match="expired"):
        tokens.read(tokens.sign("r", hidden=False, seconds=-9.0))


def test_a_client_that_resumes_is_told_to_join_anew_and_the_one_before_it_has_to_go(tmp_path: Path):
    async def script(one: Served) -> None:
        _, room = await consumed(one)
        headers = {"Authorization": f"Bearer {room['token']}"}
        async with RoomClient() as first, RoomClient() as second:
            await first.join(one.http, room)
            await first.said(GREETING)
            query = {"join_request": join_query(reconnect=True)}
            async with one.http.ws_connect("/rtc/v1", params=query, headers=headers) as socket:
                told = rtc.SignalResponse.FromString(await socket.receive_bytes()).leave
                assert told.action == rtc.LeaveRequest.RECONNECT
            await second.join(one.http, room)
            await first.ended.wait()
            assert (await first.signal("leave")).leave.reason == models.DUPLICATE_IDENTITY
            await until(lambda: len(second.media["video"]) > 10)
            second.say({"type": "text", "text": "What is your name?"})
            await second.said("My name is Noa.")

    served(script, tmp_path)


def test_a_client_that_is_silent_or_gone_frees_its_place(tmp_path: Path, monkeypatch):
    monkeypatch.setattr("serve.live.room.door.SILENT_S", 0.5)

    async def script(one: Served) -> None:
        path, room = await consumed(one)
        async with RoomClient() as client:
            await client.join(one.http, room)
            await client.ended.wait()  # it sends no pings
            assert (await client.signal("leave")).leave.reason == models.CONNECTION_TIMEOUT
            await one.until(path, "COMPLETED")

    served(script, tmp_path, timeouts=replace(TIMEOUTS, reconnect_s=0.5))


def test_what_a_room_does_not_serve_is_refused_in_words(tmp_path: Path):
    async def script(one: Served) -> None:
        _, room = await consumed(one)
        async with RoomClient() as client:
            await client.join(one.http, room)
            client.request(update_metadata=rtc.UpdateParticipantMetadata(name="me", request_id=3))
            answer = (await client.signal("request_response")).request_response
            assert (answer.request_id, answer.reason) == (3, rtc.RequestResponse.NOT_ALLOWED)
            await until(lambda: client.channel.readyState == "open")
            client.send(rpc_request=models.RpcRequest(id="r", method="dance", payload="{}"))
            told: Any = await client.packet(lambda packet: packet.HasField("rpc_response"))
            assert told.rpc_response.error.code == 1400

    served(script, tmp_path)
