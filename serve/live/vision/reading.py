"""Text of a shared screen, read by PP-OCRv6 (Apache-2.0), whose weights are in the package rapidocr."""

from typing import Any

import numpy as np
from jaxtyping import UInt8
from PIL import Image

from gwm.optional import optional_module

COMMAND = "pip install --no-deps rapidocr==3.10.0 pyclipper==1.4.0 shapely==2.2.0"
TEXT_CHARS = 1_500  # of one screen
CERTAIN = 0.7  # what is less is mostly icons and textures
THUMBNAIL = (320, 180)
CHANGED_LEVELS, CHANGED_PIXELS = 40, 12  # of the thumbnail: less is noise of the JPEG; a word of small type is more


class TextReader:
    """Lines from top to bottom.

    1280 x 720 takes several seconds of one core: read what has changed, and nothing else.

    Raises:
        MissingPackageError: the package is not installed.
    """

    def __init__(self) -> None:
        package = optional_module("rapidocr", COMMAND)
        one_thread = {f"EngineConfig.onnxruntime.{kind}_op_num_threads": 1 for kind in ("intra", "inter")}
        quiet: dict[str, Any] = {"Global.log_level": "error", "Global.use_cls": False}
        self._engine = package.RapidOCR(params=one_thread | quiet)

    def __call__(self, pixels: UInt8[np.ndarray, "h w 3"]) -> str:
        found = self._engine(np.ascontiguousarray(pixels[:, :, ::-1]))
        if found.txts is None:
            return ""
        lines = [
            (box[:, 1].mean(), text.strip())
            for box, text, score in zip(found.boxes, found.txts, found.scores)
            if score >= CERTAIN and text.strip()
        ]
        return "\n".join(text for _, text in sorted(lines, key=lambda line: line[0]))[:TEXT_CHARS]


def thumbnail(image: Image.Image) -> UInt8[np.ndarray, "h w"]:
    """What tells whether a screen has changed."""
    return np.asarray(image.convert("L").resize(THUMBNAIL, Image.Resampling.BOX))


def changed(before: UInt8[np.ndarray, "h w"] | None, now: UInt8[np.ndarray, "h w"]) -> bool:
    if before is None:
        return True
    return int((np.abs(now.astype(np.int16) - before) > CHANGED_LEVELS).sum()) >= CHANGED_PIXELS
