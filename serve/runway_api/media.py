"""Pictures and sounds that clients send: inside the request, as an upload, or by an address."""

import base64
import binascii
import io
import tempfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
from jaxtyping import Float, UInt8
from PIL import Image
from sqlalchemy.orm import Session as Db
from sqlalchemy.orm import undefer

from gwm.media.framing import Framing
from gwm.media.portraits import crop_to_centre
from gwm.media.video import read_audio
from serve.live.characters import portrait_of
from serve.live.http.uploads import decode_upload
from serve.runway_api.fetch import fetch, is_public
from serve.store.database import Store
from serve.store.tables import File, Upload, now_ms

IMAGE_BYTES, AUDIO_BYTES = 5_000_000, 16_000_000
SOUNDS = (b"RIFF", b"ID3", b"\xff\xfb", b"\xff\xf3", b"\xff\xf2", b"OggS", b"fLaC", b"\x1aE\xdf\xa3")
MP4_MARK = slice(4, 8)  # of b"ftyp"
LONGEST_S = 600.0
UPLOADED = "runway://"


async def read_source(store: Store, source: str, *, max_bytes: int, allows: Callable[[str], bool] = is_public) -> bytes:
    """The bytes of a `data:` URL, an upload, or an address.

    Raises:
        ValueError: there is nothing there that can be used.
    """
    if source.startswith("data:"):
        data = _inline(source)
    elif source.startswith(UPLOADED):
        data = await store.run(lambda db: _uploaded(db, source.removeprefix(UPLOADED)), writes=False)
    else:
        data = await fetch(source, max_bytes=max_bytes, allows=allows)
    if len(data) > max_bytes:
        raise ValueError(f"The file has {len(data) / 1e6:.1f} MB, must have at most {max_bytes / 1e6:g} MB.")
    return data


def _inline(source: str) -> bytes:
    head, _, text = source.partition(",")
    try:
        if not head.endswith(";base64"):
            raise ValueError
        return base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError) as error:
        raise ValueError("A data: URL must hold base64, as in data:image/png;base64,...") from error


def _uploaded(db: Db, upload_id: str) -> bytes:
    upload = db.get(Upload, upload_id)
    if upload is None or upload.file_id is None or upload.expires_ms < now_ms():
        raise ValueError("There is no such upload, or no longer. Upload the file again.")
    return db.get_one(File, upload.file_id, options=[undefer(File.data)]).data


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
