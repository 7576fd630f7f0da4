"""What data channels carry: messages, captions and texts as LiveKit's clients know them."""

from dataclasses import dataclass, field
from typing import Any

from livekit.protocol import models

from gwm.files.json_text import json_text
from serve.live.http.peer import MESSAGE_CHARS
from serve.live.room.descriptions import CHARACTER, CHARACTER_SID, VOICE_SID

CHAT_TOPIC = "lk.chat"
OPEN_STREAMS = 4  # texts of one client that have begun and not ended
TEXT_BYTES = 4 * MESSAGE_CHARS
TOO_LONG = f"A message must be text of at most {MESSAGE_CHARS} characters."


def from_character(**value: Any) -> models.DataPacket:
    return models.DataPacket(participant_identity=CHARACTER, participant_sid=CHARACTER_SID, **value)


def user_packet(message: dict[str, Any]) -> models.DataPacket:
    payload = json_text(message).encode()
    return from_character(
        user=models.UserPacket(payload=payload, participant_identity=CHARACTER, participant_sid=CHARACTER_SID)
    )


class Captions:
    """Words of both sides as segments: one that the character speaks grows, and is sent whole each time."""

    def __init__(self, visitor: str) -> None:
        self.visitor, self.microphone_sid = visitor, ""
        self._count, self._text = 0, ""

    def of_visitor(self, text: str) -> models.DataPacket:
        self._count += 1
        segment = models.TranscriptionSegment(id=f"user-{self._count}", text=text, final=True)
        return self._packet(self.visitor, self.microphone_sid, segment)

    def of_character(self, words: str) -> models.DataPacket:
        self._text = f"{self._text} {words}".strip()
        return self._said(final=False)

    def end(self) -> models.DataPacket | None:
        """The last state of what the character says; None while it has said nothing."""
        if not self._text:
            return None
        packet = self._said(final=True)
        self._count, self._text = self._count + 1, ""
        return packet

    def _said(self, *, final: bool) -> models.DataPacket:
        segment = models.TranscriptionSegment(id=f"character-{self._count}", text=self._text, final=final)
        return self._packet(CHARACTER, VOICE_SID, segment)

    @staticmethod
    def _packet(identity: str, track_sid: str, segment: models.TranscriptionSegment) -> models.DataPacket:
        said = models.Transcription(transcribed_participant_identity=identity, track_id=track_sid, segments=[segment])
        return from_character(transcription=said)


@dataclass(slots=True)
class TextStreams:
    """Puts texts together that come in parts: `take` each packet."""

    _open: dict[str, bytearray] = field(default_factory=dict)

    def take(self, packet: models.DataPacket) -> str | None:
        """The text that this packet completes.

        Raises:
            ValueError: the text is too long or no UTF-8, or too many are open.
        """
        text = self._completed(packet)
        if text is not None and len(text) > MESSAGE_CHARS:
            raise ValueError(TOO_LONG)
        return text

    def _completed(self, packet: models.DataPacket) -> str | None:
        kind = packet.WhichOneof("value")
        if kind == "chat_message":
            return packet.chat_message.message
        if kind == "stream_header" and packet.stream_header.topic == CHAT_TOPIC:
            if len(self._open) >= OPEN_STREAMS:
                self._open.clear()
                raise ValueError(f"More than {OPEN_STREAMS} texts have begun and not ended.")
            self._open[packet.stream_header.stream_id] = bytearray()
        elif kind == "stream_chunk" and packet.stream_chunk.stream_id in self._open:
            text = self._open[packet.stream_chunk.stream_id]
            text += packet.stream_chunk.content
            if len(text) > TEXT_BYTES:
                del self._open[packet.stream_chunk.stream_id]
                raise ValueError(TOO_LONG)
        elif kind == "stream_trailer" and packet.stream_trailer.stream_id in self._open:
            return self._open.pop(packet.stream_trailer.stream_id).decode()
        return None
