"""Pictures that visitors upload: decoded one at a time, within bounds, and kept in memory as portraits."""

import asyncio
import base64
import io
import secrets
from collections import OrderedDict
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

import numpy as np
from jaxtyping import UInt8
from PIL import Image

from gwm.files.checks import HEAD_BYTES, kind_of
from gwm.media.framing import Framing
from gwm.media.images import DAMAGED, to_rgb
from serve.live.avatar.changes import DATA_URL, ChangeRefusedError
from serve.live.characters import portrait_of
from serve.live.http.refusals import FullError, NotHereError
from serve.live.low_priority import lower_priority

UPLOAD_BYTES = 5_000_000
UPLOAD_PIXELS = 40_000_000  # a small file can hold an enormous picture
DECODED_SIDE = 2048  # more is of no use to a portrait; of pictures that are wider than two squares,
WIDE_SIDE = 8192  # where a face is a small part, the shorter side has half of it, and the longer one at most so many
FORMATS = ("JPEG", "PNG", "WEBP")
MEMORY_IMAGES = 64
WAITING_UPLOADS = 8  # each holds its file until its turn comes
Result = TypeVar("Result")


def decode_upload(data: bytes) -> Image.Image:
    """A visitor's picture as plain pixels: nothing else of the file survives.

    Raises:
        ValueError: it is too large, or no picture of an allowed format; the message is for the visitor.
    """
    if len(data) > UPLOAD_BYTES:
        raise ValueError(f"The picture has {len(data) / 1e6:.1f} MB, must have at most {UPLOAD_BYTES / 1e6:.0f} MB.")
    try:
        with Image.open(io.BytesIO(data), formats=FORMATS) as image:
            if image.width * image.height > UPLOAD_PIXELS:
                raise ValueError(
                    f"The picture has {image.width} x {image.height} pixels, must have at most "
                    f"{UPLOAD_PIXELS // 10**6} million. Make it smaller."
                )
            wide = DECODED_SIDE / 2 * max(image.size) / min(image.size)
            side = max(DECODED_SIDE, min(wide, WIDE_SIDE))
            image.thumbnail((side, side))  # JPEG files are decoded at this size, without the whole
            return to_rgb(image)
    except DAMAGED as error:
        kind = kind_of(data[:HEAD_BYTES])
        looks = f" It looks like {kind}." if kind else ""
        raise ValueError(f"This is not a picture that can be read.{looks} Send a JPEG, PNG or WebP file.") from error


class Uploads:
    """The latest uploaded portraits, in memory only, under names that cannot be guessed.

    One thread decodes, and none of those that sound and picture use: whatever is uploaded, at most `UPLOAD_PIXELS` are
    in memory at once.
    """

    def __init__(self, *, limit: int = MEMORY_IMAGES) -> None:
        self.limit, self.waiting = limit, 0
        self._pool = ThreadPoolExecutor(1, thread_name_prefix="uploads", initializer=lower_priority)
        self._portraits: OrderedDict[str, UInt8[np.ndarray, "h w 3"]] = OrderedDict()

    async def portrait(
        self, data: bytes, framing: Framing, *, face: bool = True
    ) -> tuple[UInt8[np.ndarray, "h w 3"], bool]:
        """As `portrait_of`, of a file.

        Raises:
            ValueError: as `decode_upload`.
            FullError: too many uploads wait.
        """
        return await self.run(lambda: portrait_of(decode_upload(data), framing, face=face))

    async def named(self, image: str, framing: Framing, *, face: bool) -> UInt8[np.ndarray, "h w 3"]:
        """A picture that a message of a session names: a `data:` URL, or the key of an upload. face: it must show one.

        Raises:
            ChangeRefusedError: it is no such picture; the message is for the visitor.
        """
        try:
            if not image.startswith(DATA_URL):
                return self.get(image)
            head, _, text = image.partition(",")
            if not head.endswith(";base64"):
                raise ValueError(f"A picture must be written as {DATA_URL}jpeg;base64,...")
            portrait, found = await self.portrait(base64.b64decode(text, validate=True), framing, face=face)
        except (ValueError, FullError, NotHereError) as error:
            raise ChangeRefusedError(str(error)) from error
        if not found:
            raise ChangeRefusedError("No face is seen in this picture. Take one that shows the face from the front.")
        return portrait

    async def run(self, work: Callable[[], Result]) -> Result:
        """Whatever reads a picture, in the one thread that does.

        Raises:
            FullError: too many wait for it.
        """
        if self.waiting >= WAITING_UPLOADS:
            raise FullError("Too many pictures are being read. Try again in 5 s.", reason="rate", retry_after_s=5)
        self.waiting += 1
        try:
            return await asyncio.get_running_loop().run_in_executor(self._pool, work)
        finally:
            self.waiting -= 1

    def close(self) -> None:
        self._pool.shutdown(wait=False, cancel_futures=True)

    def add(self, portrait: UInt8[np.ndarray, "h w 3"]) -> str:
        key = secrets.token_urlsafe(16)
        self._portraits[key] = portrait
        while len(self._portraits) > self.limit:
            self._portraits.popitem(last=False)
        return key

    def get(self, key: str) -> UInt8[np.ndarray, "h w 3"]:
        """The portrait of an upload.

        Raises:
            NotHereError: there is no such upload, or no longer.
        """
        if key not in self._portraits:
            raise NotHereError("This picture is not here any more. Upload it again.")
        return self._portraits[key]
