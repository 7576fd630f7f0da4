"""A program in the room that answers calls of tools by LiveKit's RPC; nobody sees it."""

from typing import Any

from aiortc import MediaStreamTrack
from livekit.protocol import models

from gwm.files.json_text import json_text
from serve.live.http.conversation import Conversation
from serve.live.room.descriptions import Wish, character_info
from serve.live.room.packets import from_character
from serve.live.room.participant import Participant
from serve.live.room.tokens import Grant
from serve.live.speech.tools import CallError, WaitingCalls

PAYLOAD_BYTES = 15_360  # of a call, as LiveKit's clients take it
RPC_VERSION = 1


class Backend(Participant):
    """A `serve.live.speech.tools.Backend`, as long as its channel is open."""

    def __init__(self, conversation: Conversation, grant: Grant, wish: Wish) -> None:
        self.conversation = conversation
        super().__init__(grant, wish, {}, conversation.ice_servers())
        self._attached = False
        self._calls = WaitingCalls()

    async def call(self, method: str, arguments: dict[str, Any], *, timeout_s: float) -> str:
        """As `Backend.call` of `serve.live.speech.tools`."""
        payload = json_text({"args": arguments})
        if len(payload.encode()) > PAYLOAD_BYTES:
            raise CallError(f"The arguments have more than {PAYLOAD_BYTES} bytes.")

        async def send(call_id: str) -> None:
            request = models.RpcRequest(
                id=call_id,
                method=method,
                payload=payload,
                response_timeout_ms=round(1000 * timeout_s),
                version=RPC_VERSION,
            )
            if not self.links.send(from_character(rpc_request=request, destination_identities=[self.grant.identity])):
                raise ConnectionError

        return await self._calls.call(method, send, timeout_s=timeout_s)

    def others(self) -> list[models.ParticipantInfo]:
        character = self.conversation.character
        height, width, _ = character.picture.shape
        return [character_info(character.name, height, width, {})]

    async def admitted(self) -> None:
        self.conversation.check_open()

    def on_packet(self, packet: models.DataPacket) -> None:
        if not packet.HasField("rpc_response"):
            return
        answer = packet.rpc_response
        failed = answer.HasField("error")
        self._calls.answer(answer.request_id, CallError(answer.error.message) if failed else answer.payload)

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
        self._calls.end()
        await super()._leave(reason)

    async def ends_with_conversation(self) -> None:
        await self.conversation.backend.ended.wait()
        await self.leave_by("ROOM_DELETED")
