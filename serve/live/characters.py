"""Who can be talked to: definition files that an operator writes, and pictures that visitors upload."""

import io
import logging
import re
import secrets
from collections import OrderedDict
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from jaxtyping import UInt8
from PIL import Image, ImageOps

from gwm.face import FaceMesh
from gwm.file_checks import HEAD_BYTES, kind_of
from gwm.images import DAMAGED, read_image, to_rgb
from gwm.portraits import crop_to_face
from gwm.text_files import read_text
from serve.live.refusals import NotHereError

log = logging.getLogger(__name__)

UPLOAD_BYTES = 5_000_000
UPLOAD_PIXELS = 40_000_000  # a small file can hold an enormous picture
MEMORY_IMAGES = 64
FORMATS = ("JPEG", "PNG", "WEBP")
FIELDS = {"name", "image", "voice", "personality", "start_script"}
NAME = re.compile(r"[a-z0-9-]{1,40}")


@dataclass(frozen=True, slots=True)
class Character:
    """A face, a voice and a way to be; the picture is square, in the engine's resolution."""

    key: str
    name: str
    portrait: UInt8[np.ndarray, "h w 3"]
    personality: str
    voice: str | None = None  # a name that the configured voices know; None: their own default
    start_script: str | None = None  # said when somebody comes

    def with_portrait(self, portrait: UInt8[np.ndarray, "h w 3"]) -> "Character":
        return replace(self, portrait=portrait)


def read_characters(folder: Path, resolution: int) -> dict[str, Character]:
    """Every `*.yaml` of a folder by its file name.

    Raises:
        ValueError: there is none, or one of them is wrong; the message names it.
    """
    files = sorted(folder.glob("*.yaml"))
    if not files:
        raise ValueError(f"characters={folder} must hold at least one .yaml file, has 0. Copy serve/live/characters.")
    return {path.stem: read_character(path, resolution) for path in files}


def read_character(path: Path, resolution: int) -> Character:
    """A definition; its image is found beside it.

    Raises:
        ValueError: a field is missing or foreign, or the image cannot be used.
    """
    values = _fields(path)
    missing, foreign = {"name", "image", "personality"} - set(values), set(values) - FIELDS
    if missing or foreign:
        raise ValueError(
            f"{path} has missing fields {sorted(missing)} and foreign fields {sorted(map(str, foreign))}, must have "
            f"name, image, personality and may have voice, start_script."
        )
    if wrong := sorted(key for key, value in values.items() if not isinstance(value, str | None)):
        raise ValueError(f"{path} must have text in {wrong}. Put the value in quotes.")
    if not NAME.fullmatch(path.stem):
        raise ValueError(f"{path.name} must be named with a-z, 0-9 and -, up to 40 of them: the name is part of a URL.")
    portrait, found = portrait_of(read_image(path.parent / values["image"]), resolution)
    if not found:
        log.warning("%s: no face is found in image %s; the square in its middle is used", path, values["image"])
    rest = {name: values.get(name) for name in ("voice", "start_script")}
    return Character(path.stem, values["name"], portrait, values["personality"], **rest)


def _fields(path: Path) -> dict[str, Any]:
    try:
        values = yaml.safe_load(read_text(path))
    except yaml.YAMLError as error:
        raise ValueError(f"{path} must be YAML: {error}. Correct that line.") from error
    if not isinstance(values, dict):
        raise ValueError(f"{path} must hold fields such as `name: Ada`, holds {type(values).__name__}.")
    return values


def portrait_of(image: Image.Image, resolution: int) -> tuple[UInt8[np.ndarray, "h w 3"], bool]:
    """The square around the face, and whether a face was found; otherwise the square in the middle."""
    try:
        return crop_to_face(image, resolution, FaceMesh()), True
    except ValueError:
        return np.array(ImageOps.fit(image, (resolution, resolution), Image.Resampling.LANCZOS)), False


def to_png(portrait: UInt8[np.ndarray, "h w 3"]) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(portrait).save(buffer, "PNG")
    return buffer.getvalue()


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
            return to_rgb(image)
    except DAMAGED as error:
        kind = kind_of(data[:HEAD_BYTES])
        looks = f" It looks like {kind}." if kind else ""
        raise ValueError(f"This is not a picture that can be read.{looks} Send a JPEG, PNG or WebP file.") from error


class Uploads:
    """The latest uploaded portraits, in memory only, under names that cannot be guessed."""

    def __init__(self, *, limit: int = MEMORY_IMAGES) -> None:
        self.limit = limit
        self._portraits: OrderedDict[str, UInt8[np.ndarray, "h w 3"]] = OrderedDict()

    def add(self, portrait: UInt8[np.ndarray, "h w 3"]) -> str:
        key = secrets.token_urlsafe(16)
        self._portraits[key] = portrait
        while len(self._portraits) > self.limit:
            self._portraits.popitem(last=False)
        return key

    def get(self, key: str) -> UInt8[np.ndarray, "h w 3"]:
        """
        Raises:
            NotHereError: there is no such upload, or no longer.
        """
        if key not in self._portraits:
            raise NotHereError("This picture is not here any more. Upload it again.")
        return self._portraits[key]
