"""Offers of connections, read and checked before the library sees them."""

from collections.abc import Sequence

from aiortc import RTCRtpCodecCapability, RTCRtpCodecParameters
from aiortc.codecs import CODECS
from aiortc.sdp import MediaDescription, SessionDescription

MAX_CANDIDATES = 64  # each is an address to which packets are sent
REPAIR = {"rtx", "red", "ulpfec", "flexfec-03"}  # carry no picture of their own
RECEIVING = ("sendrecv", "recvonly")


def read_offer(offer: str) -> list[MediaDescription]:
    """The media of an offer.

    Raises:
        ValueError: it is no SDP, is not encrypted, or has too many candidates.
    """
    try:
        media = SessionDescription.parse(offer).media
        candidates = sum(len(part.ice_candidates) for part in media)
        secured = all(part.dtls and part.dtls.fingerprints for part in media)
    except Exception as error:  # the parser has no error of its own
        raise ValueError(f"sdp must be a WebRTC offer ({cause_of(error)}).") from error
    if candidates > MAX_CANDIDATES:
        raise ValueError(f"sdp has {candidates} candidates, must have at most {MAX_CANDIDATES}.")
    if not secured:
        raise ValueError("sdp has no fingerprint of a certificate (a=fingerprint): media are sent encrypted.")
    return media


def check_page_offer(offer: str, kinds: Sequence[str] = ("audio", "video")) -> None:
    """Check that an offer has the media, codecs and directions that a page is served; `kinds` are what is sent.

    Raises:
        ValueError: it is no SDP, or what it asks for is not served here; the message says what would be.
    """
    found = [(part.kind, part.direction, [_codec(codec) for codec in part.rtp.codecs]) for part in read_offer(offer)]
    media = [kind for kind, _, _ in found if kind in CODECS]
    if sorted(media) != sorted(kinds):
        wanted = " and ".join(f"one {kind}" for kind in sorted(kinds))
        raise ValueError(f"sdp offers {media or 'no media'}, must offer {wanted}.")
    for kind, direction, codecs in found:
        if kind not in CODECS:
            continue
        served = sorted({_codec(codec) for codec in CODECS[kind]} - REPAIR)
        if not set(served) & set(codecs):
            offered = ", ".join(dict.fromkeys(codec for codec in codecs if codec not in REPAIR)) or "none"
            raise ValueError(f"sdp offers the {kind} codecs {offered}, must offer one of {', '.join(served)}.")
        if direction not in RECEIVING:
            raise ValueError(f"sdp has {kind} {direction}, must be sendrecv or recvonly: the character is sent there.")


def cause_of(error: Exception) -> str:
    return f"{type(error).__name__}: {error}"[:200]


def _codec(codec: RTCRtpCodecParameters | RTCRtpCodecCapability) -> str:
    return codec.mimeType.split("/")[-1]
