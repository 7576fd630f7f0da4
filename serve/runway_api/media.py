"""Pictures and sounds that clients send: inside the request, as an upload, or by an address."""

import asyncio
import base64
import binascii
import io
import re
import tempfile
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import numpy as np
from jaxtyping import Float, UInt8
from PIL import Image
from sqlalchemy.orm import Session as Db

from gwm.files.checks import HEAD_BYTES
from gwm.files.outputs import whole_file
from gwm.media.framing import Framing
from gwm.media.portraits import crop_to_centre
from gwm.media.refilm import open_film
from gwm.media.video import read_audio
from serve.live.characters import portrait_of
from serve.live.http.uploads import FORMATS, UPLOAD_PIXELS, decode_upload
from serve.runway_api.fetch import fetched, is_public
from serve.runway_api.films import FilmOptions
from serve.store.database import Store
from serve.store.files import file_bytes, read_file
from serve.store.tables import Upload, now_ms

IMAGE_BYTES, AUDIO_BYTES = 5_000_000, 16_000_000
SOUNDS = (b"RIFF", b"ID3", b"\xff\xfb", b"\xff\xf3", b"\xff\xf2", b"OggS", b"fLaC", b"\x1aE\xdf\xa3")
MP4_MARK = slice(4, 8)  # of b"ftyp"
VIDEOS = re.compile(rb"(.{4}(ftyp|moov|mdat|wide|free|skip)|\x1a\x45\xdf\xa3|RIFF.{4}AVI ).*", re.DOTALL)
PICTURES = {
    re.compile(rb"\xff\xd8\xff.*", re.DOTALL): ".jpg",
    re.compile(rb"\x89PNG\r\n.*", re.DOTALL): ".png",
    re.compile(rb"RIFF.{4}WEBP.*", re.DOTALL): ".webp",
}
LONGEST_S = 600.0
FILM_S = 300.0  # that an address has to send a film
UPLOADED = "runway://"


async def read_source(store: Store, source: str, *, max_bytes: int, allows: Callable[[str], bool] = is_public) -> bytes:
    """All of `pieces_of`."""
    return b"".join([piece async for piece in pieces_of(store, source, max_bytes=max_bytes, allows=allows)])


async def save_source(
    store: Store, source: str, path: Path, *, max_bytes: int, allows: Callable[[str], bool] = is_public
) -> None:
    """Write `pieces_of` to a file, whole or not at all."""
    with whole_file(path) as partial, partial.open("wb") as file:
        async for piece in pieces_of(store, source, max_bytes=max_bytes, allows=allows, within_s=FILM_S):
            await asyncio.to_thread(file.write, piece)


async def pieces_of(
    store: Store, source: str, *, max_bytes: int, allows: Callable[[str], bool], within_s: float | None = None
) -> AsyncIterator[bytes]:
    """The bytes of a `data:` URL, an upload, or an address.

    within_s: that an address has to send all of it.

    Raises:
        ValueError: there is nothing there that can be used.
    """
    if source.startswith("data:"):
        data = _inline(source)
        _check_bytes(len(data), max_bytes)
        yield data
    elif source.startswith(UPLOADED):
        upload = source.removeprefix(UPLOADED)
        async for piece in read_file(store, await store.run(lambda db: _uploaded(db, upload, max_bytes), writes=False)):
            yield piece
    else:
        async for piece in fetched(source, max_bytes=max_bytes, allows=allows, within_s=within_s):
            yield piece


def _check_bytes(count: int, max_bytes: int) -> None:
    if count > max_bytes:
        raise ValueError(f"The file has {count / 1e6:.1f} MB, must have at most {max_bytes / 1e6:g} MB.")


def _inline(source: str) -> bytes:
    head, _, text = source.partition(",")
    try:
        if not head.endswith(";base64"):
            raise ValueError
        return base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError) as error:
        raise ValueError("A data: URL must hold base64, as in data:image/png;base64,...") from error


def _uploaded(db: Db, upload_id: str, max_bytes: int) -> str:
    """The id of its file."""
    upload = db.get(Upload, upload_id)
    if upload is None or upload.file_id is None or upload.expires_ms < now_ms():
        raise ValueError("There is no such upload, or no longer. Upload the file again.")
    _check_bytes(file_bytes(db, upload.file_id), max_bytes)
    return upload.file_id


def plain_picture(data: bytes) -> bytes:
    """A client's picture drawn anew: nothing else of its file survives.

    Raises:
        ValueError: as `decode_upload`.
    """
    buffer = io.BytesIO()
    decode_upload(data).save(buffer, "JPEG", quality=95)
    return buffer.getvalue()


def portrait_from(data: bytes, framing: Framing, *, crops_to_face: bool) -> UInt8[np.ndarray, "h w 3"]:
    """Of a picture that `plain_picture` made: around the face where there is one and it is asked for."""
    image = Image.open(io.BytesIO(data), formats=("JPEG",)).convert("RGB")
    if crops_to_face:
        return portrait_of(image, framing)[0]
    return crop_to_centre(image, framing.frame, "the picture of an avatar", margin=framing.margin)


def named_by_kind(path: Path, options: FilmOptions, *, videos: bool) -> str:
    """A name for the file that says what it is: `serve.edit` goes by suffixes. videos: whether it may be one.

    Raises:
        ValueError: it is neither a picture nor, where it may be one, a video; or it is too large.
    """
    with path.open("rb") as file:
        head = file.read(HEAD_BYTES)
    suffix = next((suffix for mark, suffix in PICTURES.items() if mark.fullmatch(head)), None)
    if suffix is not None:
        with Image.open(path, formats=FORMATS) as image:
            if image.width * image.height > UPLOAD_PIXELS:
                raise ValueError(f"{path.name} must have at most {UPLOAD_PIXELS // 10**6} million pixels.")
    elif videos:
        check_film(path, options)
        suffix = ".mp4"
    else:
        raise ValueError(f"{path.name} is no picture that can be read. Send a JPEG, PNG or WebP file.")
    named = path.with_suffix(suffix)
    named.unlink(missing_ok=True)
    named.symlink_to(path.name)
    return named.name


def check_film(path: Path, options: FilmOptions) -> None:
    """
    Raises:
        ValueError: it is no video of an allowed kind: others can name further files. Or it is too long, or too large.
    """
    with path.open("rb") as file:
        if not VIDEOS.fullmatch(file.read(HEAD_BYTES)):
            raise ValueError(f"{path.name} is no video that can be read. Send mp4, mov, mkv, webm or avi.")
    try:
        with open_film(path) as film:
            length_s, pixels = film.declared_s or 0.0, film.stream.width * film.stream.height
    except ValueError as error:
        raise ValueError(str(error).replace(f"{path}", path.name)) from error
    if length_s > options.longest_s:
        raise ValueError(f"The video lasts {length_s:.0f} s, must last at most {options.longest_s:g} s.")
    if pixels > options.max_pixels:
        raise ValueError(f"The video has {pixels} pixels a picture, must have at most {options.max_pixels}.")


async def fetched_sound(
    store: Store, source: str, sample_rate: int, *, allows: Callable[[str], bool]
) -> Float[np.ndarray, " t"]:
    """The sound of a source, as `sound_of` reads it."""
    data = await read_source(store, source, max_bytes=AUDIO_BYTES, allows=allows)
    return await asyncio.to_thread(sound_of, data, sample_rate)


def sound_of(data: bytes, sample_rate: int) -> Float[np.ndarray, " t"]:
    """Decode a sound file that a visitor sent.

    Raises:
        ValueError: it is no sound of an allowed kind: others can name further files. Or it is too long.
    """
    if not data.startswith(SOUNDS) and data[MP4_MARK] != b"ftyp":
        raise ValueError("This is no sound that can be read. Send wav, mp3, ogg, flac, m4a or webm.")
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "sound"
        path.write_bytes(data)
        try:
            sound = read_audio(path, sample_rate=sample_rate)
        except ValueError as error:
            raise ValueError(str(error).replace(str(path), "the sound")) from error
    if len(sound) > LONGEST_S * sample_rate:
        raise ValueError(f"The sound lasts {len(sound) / sample_rate:.0f} s, must last at most {LONGEST_S:.0f} s.")
    return sound
