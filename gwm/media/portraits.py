"""A person's portrait from any picture: found, turned upright, and framed as training data frames faces."""

import logging
from dataclasses import dataclass

import numpy as np
from jaxtyping import UInt8
from PIL import Image, ImageOps

from gwm.media.face import FaceMesh, face_square, head_yaw, square_of
from gwm.media.framing import Box, Framing, cut, framed_centre, framed_face
from gwm.media.images import to_rgb
from gwm.resolution import Resolution

log = logging.getLogger(__name__)

CERTAIN = 0.9  # score: only upright faces reach it
CLEARLY = 0.05  # of the score: by more than this, a face that lies or stands on its head is seen better when turned
ENLARGED = 1.5  # times; a crop that is enlarged more looks soft, which is said
PROFILE = 0.5  # radians of yaw, beyond those of the references of training
MOSTLY = 0.7  # of a picture's area: where frames that are no squares show less of it, that is said


@dataclass(frozen=True)
class Portrait:
    """An upright picture and the square of its face, as training data frames faces."""

    pixels: UInt8[np.ndarray, "h w 3"]
    middle: tuple[float, float]  # x and y, in px
    side: float


def find_portrait(image: Image.Image, mesh: FaceMesh) -> Portrait:
    """The picture, turned so that its face is upright where that lies on its side or stands on its head.

    Of several faces it is the most certain one. Whatever was chosen or is doubtful is logged.

    Raises:
        ValueError: there is no face in the image.
    """
    pixels = np.asarray(to_rgb(image))
    if quarters := _quarters(pixels, mesh):
        log.warning("the face is not upright: the picture was turned counterclockwise by %d degrees", 90 * quarters)
        pixels = np.ascontiguousarray(np.rot90(pixels, quarters))
    points = mesh.landmarks(pixels)
    square = face_square(pixels, mesh) if points is None else square_of(points)
    if square is None:
        raise ValueError(
            f"the image of {image.width}x{image.height} px must show a face, and none was found: use a portrait in "
            "which both eyes and the mouth are seen from the front."
        )
    size = f"the picture of {image.width}x{image.height} px"
    if (count := mesh.num_faces(pixels)) > 1:
        x, y = square[0].round().astype(int)
        log.warning("%s shows %d faces: that at (%d, %d) is used. Crop it to use another", size, count, x, y)
    if points is None:
        log.warning("in %s the face is turned away, covered or none: lips may not follow. Use a frontal one", size)
    elif abs(yaw := head_yaw(points)) > PROFILE:
        degrees = round(np.degrees(abs(yaw)))
        log.warning("in %s the face looks %d degrees to the side: it moves less well. Use a frontal one", size, degrees)
    x, y = square[0].tolist()
    return Portrait(pixels, (x, y), square[1])


def crop_to_face(
    image: Image.Image, resolution: Resolution, mesh: FaceMesh, *, margin: int = 0
) -> UInt8[np.ndarray, "h w 3"]:
    """The part around the face that training data shows of a picture (`gwm.media.framing.framed_face`), and `margin` px
    of what lies around that.

    Raises:
        ValueError: as `find_portrait`.
    """
    found = find_portrait(image, mesh)
    picture = found.pixels.shape[:2]
    box = framed_face(picture, found.middle, found.side, resolution)
    warn_of_losses(box, picture, resolution, f"the picture of {image.width}x{image.height} px")
    framing = Framing(resolution, margin)
    return cut(found.pixels, framing.around(box), framing.kept)


def crop_to_centre(
    image: Image.Image, resolution: Resolution, name: str, *, margin: int = 0
) -> UInt8[np.ndarray, "h w 3"]:
    """The largest part of the frame's aspect around the middle of a picture, which warnings call `name`, and `margin`
    px of what lies around that."""
    picture = image.height, image.width
    box, framing = framed_centre(picture, resolution), Framing(resolution, margin)
    warn_of_losses(box, picture, resolution, name)
    if margin:
        return cut(np.asarray(image), framing.around(box), framing.kept)
    return np.array(ImageOps.fit(image, (resolution.width, resolution.height), Image.Resampling.LANCZOS))


def warn_of_losses(box: Box, picture: tuple[int, int], resolution: Resolution, name: str) -> None:
    """Say that a box becomes soft at a much larger resolution, or leaves much out since the aspect is another."""
    if box.height * ENLARGED < resolution.height:
        log.warning(
            "%s gives a part of %dx%d px, which is enlarged %.1f times to %s px and looks soft. Use a larger picture",
            *(name, round(box.height), round(box.width), resolution.height / box.height, resolution),
        )
    height, width = picture
    if not resolution.is_square and (shown := box.height * box.width / (height * width)) < MOSTLY:
        log.warning(
            "of %s %.0f %% are seen: frames of %s have another aspect. Use a picture of theirs",
            *(name, 100 * shown, resolution),
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
