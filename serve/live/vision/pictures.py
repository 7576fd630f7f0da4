"""Pictures of a visitor's camera or screen, checked without being decoded."""

import io
from dataclasses import dataclass

from PIL import Image, UnidentifiedImageError

SOURCES = ("camera", "screen")
PICTURE_BYTES = 200_000  # of one JPEG; a message of a data channel may have 262,144
MAX_PIXELS = 2_400_000  # 1920 x 1200 and some more
JPEG_END = b"\xff\xd9"
WHAT = f"a JPEG of at most {PICTURE_BYTES // 1000} kB and {MAX_PIXELS / 1e6:g} million pixels"


@dataclass(frozen=True, slots=True)
class Picture:
    """What a source showed at one moment, as it came: nobody has decoded it yet."""

    source: str
    jpeg: bytes


def read_picture(message: bytes) -> Picture:
    """A binary message: one byte for the source (0 camera, 1 screen), and a JPEG. Its header alone is read.

    Raises:
        ValueError: there is no such source, or no JPEG of a size that is taken.
    """
    if not message or message[0] >= len(SOURCES):
        raise ValueError("A picture must begin with a byte for its source: 0 for the camera, 1 for the screen.")
    picture = Picture(SOURCES[message[0]], bytes(message[1:]))
    check_jpeg(picture)
    return picture


def check_jpeg(picture: Picture) -> None:
    """
    Raises:
        ValueError: it is no JPEG, cut off, or too large.
    """
    if len(picture.jpeg) > PICTURE_BYTES:
        raise ValueError(f"The picture of the {picture.source} has {len(picture.jpeg)} bytes, must be {WHAT}.")
    try:
        with Image.open(io.BytesIO(picture.jpeg), formats=("JPEG",)) as image:
            width, height = image.size
    except (UnidentifiedImageError, OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
        raise ValueError(f"The picture of the {picture.source} cannot be read, must be {WHAT}.") from error
    if width * height > MAX_PIXELS:
        raise ValueError(f"The picture of the {picture.source} has {width} x {height} pixels, must be {WHAT}.")
    if not picture.jpeg.rstrip(b"\0").endswith(JPEG_END):
        raise ValueError(f"The picture of the {picture.source} is cut off, must be {WHAT}.")
