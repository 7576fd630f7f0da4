"""What the server sends a client that joins: the room, itself, and the character with its two tracks."""

import base64
import secrets
import zlib
from dataclasses import dataclass

from aiortc import RTCIceServer
from google.protobuf.message import DecodeError
from livekit.protocol import models, rtc
from multidict import MultiMapping

from serve.live.http.ice import to_json
from serve.live.room.tokens import Grant

PROTOCOL, VERSION = 16, "1.9.0"  # of LiveKit's server whose signalling this is
PING_S, SILENT_S = 5, 15  # a client sends a ping so often, and is gone when nothing came for so long
JOIN_BYTES = 200_000  # of an unpacked request
CHARACTER, CHARACTER_SID, STREAM = "worker:avatar", "PA_avatar", "avatar"  # programs ask for the prefix
VOICE_SID, FACE_SID = "TR_voice", "TR_face"


def new_sid(kind: str) -> str:
    return f"{kind}_{secrets.token_hex(6)}"


@dataclass(frozen=True, slots=True)
class Wish:
    """How a client wants to join.

    offer: of the one connection for both directions; None: it waits for the server's offer, and makes another later.
    resumes: it had joined before, and believes that its connections still stand.
    publishes: tracks of its own that are in the offer.
    """

    one_connection: bool
    resumes: bool
    offer: rtc.SessionDescription | None = None
    publishes: tuple[rtc.AddTrackRequest, ...] = ()

    @classmethod
    def of(cls, query: MultiMapping[str], *, one_connection: bool) -> "Wish":
        """
        Raises:
            ValueError: the request to join cannot be read.
        """
        if not one_connection:
            return cls(False, query.get("reconnect", "") in ("1", "true"))
        request = _unpacked(query.get("join_request", ""))
        offer = request.publisher_offer if request.publisher_offer.sdp else None
        return cls(True, request.reconnect, offer, tuple(request.add_track_requests))


def _unpacked(text: str) -> rtc.JoinRequest:
    try:
        data = base64.b64decode(text.translate(str.maketrans("-_", "+/")) + "=" * (-len(text) % 4), validate=True)
        wrapped = rtc.WrappedJoinRequest.FromString(data)
        packed = wrapped.join_request
        if wrapped.compression == rtc.WrappedJoinRequest.GZIP:
            reader = zlib.decompressobj(wbits=zlib.MAX_WBITS | 16)
            packed = reader.decompress(packed, JOIN_BYTES)
            if reader.unconsumed_tail:
                raise ValueError(f"more than {JOIN_BYTES} bytes")
        return rtc.JoinRequest.FromString(packed)
    except (DecodeError, zlib.error, ValueError) as error:
        raise ValueError(f"join_request must be a packed JoinRequest of LiveKit ({error}).") from error


def character_info(name: str, height: int, width: int, attributes: dict[str, str]) -> models.ParticipantInfo:
    """The character, whose voice and picture are in one stream so that they stay together."""
    voice = models.TrackInfo(
        sid=VOICE_SID,
        type=models.AUDIO,
        source=models.MICROPHONE,
        name="voice",
        mime_type="audio/opus",
        stream=STREAM,
    )
    face = models.TrackInfo(
        sid=FACE_SID,
        type=models.VIDEO,
        source=models.CAMERA,
        name="face",
        mime_type="video/VP8",
        width=width,
        height=height,
        stream=STREAM,
    )
    return models.ParticipantInfo(
        sid=CHARACTER_SID,
        identity=CHARACTER,
        name=name,
        state=models.ParticipantInfo.ACTIVE,
        kind=models.ParticipantInfo.AGENT,
        is_publisher=True,
        permission=models.ParticipantPermission(can_subscribe=True, can_publish=True, can_publish_data=True),
        attributes=attributes,
        tracks=[voice, face],
    )


def participant_info(grant: Grant, sid: str) -> models.ParticipantInfo:
    permission = models.ParticipantPermission(
        can_subscribe=True, can_publish=not grant.hidden, can_publish_data=True, hidden=grant.hidden
    )
    return models.ParticipantInfo(
        sid=sid, identity=grant.identity, state=models.ParticipantInfo.ACTIVE, permission=permission
    )


def join_response(
    grant: Grant,
    sid: str,
    others: list[models.ParticipantInfo],
    ice_servers: list[RTCIceServer],
    *,
    one_connection: bool,
) -> rtc.SignalResponse:
    """The first message: who is here, and how often to ping."""
    join = rtc.JoinResponse(
        room=models.Room(sid=f"RM_{grant.room}", name=grant.room),
        participant=participant_info(grant, sid),
        other_participants=others,
        ice_servers=[rtc.ICEServer(**to_json(each)) for each in ice_servers],
        subscriber_primary=not one_connection,
        fast_publish=True,
        ping_interval=PING_S,
        ping_timeout=SILENT_S,
        server_version=VERSION,
        server_info=models.ServerInfo(edition=models.ServerInfo.Standard, version=VERSION, protocol=PROTOCOL),
        enabled_publish_codecs=[models.Codec(mime="video/VP8"), models.Codec(mime="audio/opus")],
    )
    return rtc.SignalResponse(join=join)


def leave(action: str, reason: str) -> rtc.SignalResponse:
    return rtc.SignalResponse(leave=rtc.LeaveRequest(action=action, reason=reason))
