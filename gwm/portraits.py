"""A person's portrait from any picture: found, turned upright, and framed as training data frames faces."""

import logging

import numpy as np
from jaxtyping import UInt8
from PIL import Image

from gwm.face import FaceMesh, crop_square, face_square
from gwm.images import to_rgb

log = logging.getLogger(__name__)

CERTAIN = 0.9  # score: only upright faces reach it
CLEARLY = 0.05  # of the score: by more than this, a face that lies or stands on its head is seen better when turned
ENLARGED = 1.5  # times; a crop that is enlarged more looks soft, which is said


def crop_to_face(image: Image.Image, resolution: int, mesh: FaceMesh) -> UInt8[np.ndarray, "h w 3"]:
    """The square around the face as training data frames it, edges repeated outside the image.

    Of several faces it is the most certain one. A face that lies on its side, or stands on its head, is turned upright.
    Whatever was chosen or is doubtful is logged.

    Raises:
        ValueError: there is no face in the image.
    """
    pixels = np.asarray(to_rgb(image))
    if quarters := _quarters(pixels, mesh):
        log.warning("the face is not upright: the picture was turned counterclockwise by %d degrees", 90 * quarters)
        pixels = np.ascontiguousarray(np.rot90(pixels, quarters))
    square = face_square(pixels, mesh)
    if square is None:
        raise ValueError(
            f"the image of {image.width}x{image.height} px must show a face, and none was found: use a portrait in "
            "which both eyes and the mouth are seen from the front."
        )
    size = f"the picture of {image.width}x{image.height} px"
    if (count := mesh.num_faces(pixels)) > 1:
        x, y = square[0].round().astype(int)
        log.warning("%s shows %d faces: that at (%d, %d) is used. Crop it to use another", size, count, x, y)
    if mesh.landmarks(pixels) is None:
        log.warning("in %s the face is turned away or covered: lips may not follow the voice. Use a frontal one", size)
    warn_if_enlarged(square[1], resolution, size)
    return crop_square(pixels, *square, resolution)


def warn_if_enlarged(side: float, resolution: int, picture: str) -> None:
    """Say that a square of `side` px becomes soft at a much larger resolution."""
    if side * ENLARGED < resolution:
        log.warning(
            "%s gives a square of %d px, which is enlarged %.1f times to %d px and looks soft. Use a larger picture",
            *(picture, round(side), resolution / side, resolution),
        )


def _quarters(pixels: UInt8[np.ndarray, "h w 3"], mesh: FaceMesh) -> int:
    """Counterclockwise quarter turns after which the face is seen best; 0 unless another is clearly better."""
    upright = mesh.detect(pixels)
    if upright is not None and upright.score >= CERTAIN:
        return 0
    boxes = [upright, *(mesh.detect(np.ascontiguousarray(np.rot90(pixels, turns))) for turns in (1, 2, 3))]
    scores = [box.score if box else 0.0 for box in boxes]
    best = int(np.argmax(scores))
    return best if scores[best] > scores[0] + CLEARLY else 0
