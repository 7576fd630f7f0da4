"""Speech as a server sends it: what it is, its first bytes and its Content-Type decide, not what was asked for."""

import io
import re
from collections.abc import AsyncIterator

import av
import av.error
import numpy as np
import soxr
from jaxtyping import Float

from gwm.media.sound import from_pcm
from serve.live.speech.endpoint_failures import Place, unexpected

PCM_RATE = 24_000  # of OpenAI's speech
FILE_BYTES = 20_000_000  # of one sentence
HEAD_BYTES = 16
# Containers by how their files begin; raw samples begin so only by a freak of chance.
MAGIC = ((b"RIFF", "wav"), (b"OggS", "ogg"), (b"fLaC", "flac"), (b"ID3", "mp3"), (b"\x1aE\xdf\xa3", "matroska"))
BY_TYPE = {"mpeg": "mp3", "mp3": "mp3", "aac": "aac", "mp4": "mp4", "x-m4a": "mp4", "wav": "wav", "x-wav": "wav"}
RAW = re.compile(r"(audio/(x-)?(pcm|l16|raw)|application/octet-stream|binary/octet-stream|)$")


async def decoded(
    parts: AsyncIterator[bytes], content_type: str, *, sample_rate: int, place: Place
) -> AsyncIterator[Float[np.ndarray, " t"]]:
    """Mono sound in [-1, 1] at `sample_rate`; raw samples as they arrive, a file when it is whole.

    Raises:
        EndpointError: it is no sound, or none that can be read.
    """
    kind, _, options = content_type.lower().partition(";")
    head = b""
    async for part in parts:
        head += part
        if len(head) >= HEAD_BYTES:
            break
    if form := container(head, kind.strip()):
        yield _read_file(await _whole(head, parts, place), form, sample_rate, place)
        return
    if not RAW.match(kind.strip()) or head.lstrip()[:2] in (b'{"', b"<h", b"<!"):
        raise unexpected(kind.strip(), await _whole(head, parts, place), place)
    if not head:
        raise place.error("answered without sound. Try again.")
    async for samples in _raw(head, parts, _rate(options), sample_rate):
        yield samples


def container(head: bytes, kind: str) -> str:
    """The container in which a file begins with these bytes; empty where it is none that is known."""
    for magic, form in MAGIC:
        if head.startswith(magic):
            return form
    if head[4:8] == b"ftyp":
        return "mp4"
    form = BY_TYPE.get(kind.removeprefix("audio/"), "")
    if form == "mp4" or head.lstrip()[:1] in (b"{", b"<"):
        return ""
    return form if form in ("mp3", "aac") else ("mp3" if not RAW.match(kind) and _mpeg_frame(head) else "")


def _mpeg_frame(head: bytes) -> bool:
    return len(head) > 2 and head[0] == 0xFF and head[1] & 0xE0 == 0xE0 and head[1] & 0x06 != 0 and head[2] >> 4 != 15


async def _whole(head: bytes, parts: AsyncIterator[bytes], place: Place) -> bytes:
    body = bytearray(head)
    async for part in parts:
        body += part
        if len(body) > FILE_BYTES:
            raise place.error(f"answered with more than {FILE_BYTES // 10**6} MB for one sentence.")
    return bytes(body)


def _read_file(body: bytes, form: str, sample_rate: int, place: Place) -> Float[np.ndarray, " t"]:
    try:
        with av.open(io.BytesIO(body), mode="r", format=form) as file:
            resampler = av.AudioResampler(format="flt", layout="mono", rate=sample_rate)
            frames = [part for frame in file.decode(audio=0) for part in resampler.resample(frame)]
            parts = [part.to_ndarray().reshape(-1) for part in [*frames, *resampler.resample(None)]]
    except (av.error.FFmpegError, IndexError, ValueError) as error:
        raise place.error(f"answered with {form} that cannot be read ({error}).") from error
    return np.concatenate([np.zeros(0, np.float32), *parts]).clip(-1, 1)


async def _raw(
    head: bytes, parts: AsyncIterator[bytes], rate: int, sample_rate: int
) -> AsyncIterator[Float[np.ndarray, " t"]]:
    """16-bit samples in pieces of any length; half a sample at the end of a stream that broke is left out."""
    stream = soxr.ResampleStream(rate, sample_rate, 1, dtype="float32") if rate != sample_rate else None
    rest = head
    async for part in _then_nothing(parts):
        rest += part or b""
        whole = len(rest) // 2 * 2
        samples, rest = from_pcm(rest[:whole]), rest[whole:]
        if stream:
            samples = stream.resample_chunk(samples, last=part is None)
        if len(samples):
            yield samples


async def _then_nothing(parts: AsyncIterator[bytes]) -> AsyncIterator[bytes | None]:
    async for part in parts:
        yield part
    yield None


def _rate(options: str) -> int:
    found = re.search(r"rate=(\d{4,6})", options)
    return int(found[1]) if found else PCM_RATE
