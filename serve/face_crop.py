"""A picture and the face's square in it, for models that move the square and leave the rest."""

import numpy as np
from jaxtyping import UInt8
from PIL import Image

from gwm.autoencoders.motion.paste import Square, square_around
from gwm.media.face import FaceMesh
from gwm.media.framing import Framing, framed_face
from gwm.media.portraits import crop_to_face, find_portrait, warn_of_losses

LONGEST = 4096  # px along the longer side of a whole picture


def framed(image: Image.Image, framing: Framing, *, whole: bool) -> tuple[UInt8[np.ndarray, "h w 3"], Square]:
    """The picture, upright and resized so that the face's square is the frame, and the square that is kept; the latter
    alone unless `whole`.

    Raises:
        ValueError: there is no face in the image, or the picture would become larger than films are.
    """
    resolution, size = framing.frame, framing.frame.width
    if not whole:
        return crop_to_face(image, resolution, FaceMesh(), margin=framing.margin), Square(0, 0, framing.kept.width)
    found = find_portrait(image, FaceMesh())
    height, width = found.pixels.shape[:2]
    scale = size / found.side
    sides = [max(2, 2 * round(n * scale / 2)) for n in (width, height)]  # even, as H.264 wants
    if max(sides) > LONGEST:
        raise ValueError(
            f"size={size} makes the whole picture {sides[0]}x{sides[1]} px, must make it at most {LONGEST} px wide and "
            f"high: size={2 * int(size * LONGEST / max(sides) / 2)} or less. Or crop the picture, or show the face "
            "alone: whole=false."
        )
    box = framed_face((height, width), found.middle, found.side, resolution)
    warn_of_losses(box, (height, width), resolution, f"the picture of {image.width}x{image.height} px")
    picture = np.asarray(Image.fromarray(found.pixels).resize((sides[0], sides[1]), Image.Resampling.LANCZOS))
    return picture, square_around(np.array(found.middle) * scale, float(size)).with_margin(framing.margin)
