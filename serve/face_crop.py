"""A picture and the face's square in it, for models that move the square and leave the rest."""

import numpy as np
from jaxtyping import UInt8
from PIL import Image

from gwm.autoencoders.motion.paste import Square, square_around
from gwm.media.face import FaceMesh, face_square
from gwm.media.images import to_rgb

LONGEST = 4096  # px along the longer side of a whole picture


def framed(image: Image.Image, size: int, *, whole: bool) -> tuple[UInt8[np.ndarray, "h w 3"], Square]:
    """The picture, resized so that the face's square has `size` px, and that square; cut to it unless `whole`.

    Raises:
        ValueError: there is no face in the image, or the picture would become larger than films are.
    """
    pixels = np.asarray(to_rgb(image))
    found = face_square(pixels, FaceMesh())
    if found is None:
        raise ValueError(f"the image of {image.width}x{image.height} px must show a face, and none was found.")
    scale = size / found[1]
    sides = [max(2, 2 * round(n * scale / 2)) for n in pixels.shape[1::-1]]  # even, as H.264 wants
    if max(sides) > LONGEST:
        raise ValueError(
            f"size={size} would enlarge the picture to {sides[0]}x{sides[1]} px, must leave at most {LONGEST} px: its "
            "face is small. Lower size, crop the picture, or show the face alone: whole=false."
        )
    picture = np.asarray(Image.fromarray(pixels).resize((sides[0], sides[1]), Image.Resampling.LANCZOS))
    square = square_around(found[0] * scale, float(size))
    return (picture, square) if whole else (square.cut(picture), Square(0, 0, size))
