"""A program in the room that answers calls of tools by LiveKit's RPC; nobody sees it."""

import asyncio
import secrets
from typing import Any

from aiortc import MediaStreamTrack
from livekit.protocol import models

from gwm.files.json_text import json_text
from serve.live.http.conversation import Conversation
from serve.live.room.descriptions import Wish, character_info
from serve.live.room.packets import from_character
from serve.live.room.participant import Participant
from serve.live.room.tokens import Grant
from serve.live.speech.tools import CallError

PAYLOAD_BYTES = 15_360  # of a call, as LiveKit's clients take it
WAITING_CALLS = 32
RPC_VERSION = 1
GONE = "The program that answers has gone."


class Backend(Participant):
    """A `serve.live.speech.tools.Backend`, as long as its channel is open."""

    def __init__(self, conversation: Conversation, grant: Grant, wish: Wish) -> None:
        self.conversation = conversation
        super().__init__(grant, wish, {}, conversation.ice_servers)
        self._attached = False
        self._calls: dict[str, asyncio.Future[str]] = {}

    async def call(self, method: str, arguments: dict[str, Any], *, timeout_s: float) -> str:
        """As `Backend.call` of `serve.live.speech.tools`."""
        payload = json_text({"args": arguments})
        if len(payload.encode()) > PAYLOAD_BYTES:
            raise CallError(f"The arguments have more than {PAYLOAD_BYTES} bytes.")
        if len(self._calls) >= WAITING_CALLS:
            raise CallError(f"{WAITING_CALLS} calls wait already.")
        call_id = secrets.token_hex(8)
        answer = self._calls[call_id] = asyncio.get_running_loop().create_future()
        request = models.RpcRequest(
            id=call_id,
            method=method,
            payload=payload,
            response_timeout_ms=round(1000 * timeout_s),
            version=RPC_VERSION,
        )
        try:
            if not self.links.send(from_character(rpc_request=request, destination_identities=[self.grant.identity])):
                raise CallError(GONE)
            async with asyncio.timeout(timeout_s):
                return await answer
        except TimeoutError as error:
            raise CallError(f"{method} did not answer within {timeout_s:g} s.") from error
        finally:
            del self._calls[call_id]

    def others(self) -> list[models.ParticipantInfo]:
        character = self.conversation.character
        height, width, _ = character.picture.shape
        return [character_info(character.name, height, width, {})]

    async def admitted(self) -> None:
        self.conversation.check_open()

    def on_packet(self, packet: models.DataPacket) -> None:
        if not packet.HasField("rpc_response"):
            return
        answer = self._calls.get(packet.rpc_response.request_id)
        if answer is None or answer.done():  # too late
            return
        if packet.rpc_response.HasField("error"):
            answer.set_exception(CallError(packet.rpc_response.error.message))
        else:
            answer.set_result(packet.rpc_response.payload)

    def on_audio(self, track: MediaStreamTrack) -> bool:
        return False  # a program has no voice

    def on_channel(self) -> None:
        if not self._attached and not self.left:
            self._attached = True
            self.conversation.backend.attach(self)

    def on_state(self, state: str) -> None:
        """Its websocket says when it goes."""

    async def _leave(self, reason: str) -> None:
        if self._attached:
            self.conversation.backend.detach(self)
        for answer in self._calls.values():
            if not answer.done():
                answer.set_exception(CallError(GONE))
        await super()._leave(reason)

    async def ends_with_conversation(self) -> None:
        await self.conversation.backend.ended.wait()
        await self.leave_by("ROOM_DELETED")
