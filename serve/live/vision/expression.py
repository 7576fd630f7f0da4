"""A face in a sentence, by its blendshapes: for servers without a model that sees."""

import numpy as np
from jaxtyping import UInt8

from gwm.media.blendshapes import Blendshapes, FaceShape
from gwm.media.face import NUM_MESH, FaceMesh, head_yaw

NO_FACE = "I see no face."
AWAY_RAD = 0.3  # of a turned head
# From which a shape is mentioned. Of ten rendered people, these find 8 smiles, 9 open mouths, 10 pairs of shut lids and
# 19 of 20 glances to a side, and nothing in faces at rest or turned by 0.25 rad (2026-11-29).
SMILE, OPEN_MOUTH, SHUT_LIDS = 0.5, 0.3, 0.55
GLANCE = 0.075  # of an iris from the middle of its eye, in widths of the eye
IRISES = ((468, 33, 133), (473, 362, 263))  # centre and corners, from left to right in the picture
# Brows lie elsewhere in every face: they are raised against their own median, over some pictures.
RAISED, LEVELS, MIN_LEVELS = 0.12, 30, 3


class FaceReader:
    """Raises:
    MissingPackageError, FileNotFoundError, ValueError: as `FaceMesh` and `Blendshapes`.
    """

    def __init__(self) -> None:
        self.mesh, self.blendshapes = FaceMesh(), Blendshapes()

    def __call__(
        self, image: UInt8[np.ndarray, "h w 3"], before: UInt8[np.ndarray, "1 n"] | None
    ) -> tuple[str, UInt8[np.ndarray, "1 m"] | None]:
        """Words, and what is to be given with the next picture of the same visitor: how high the brows were."""
        box = self.mesh.detect(image)
        face = None if box is None else self.blendshapes(image, box)
        if face is None:
            return NO_FACE, before
        levels = np.zeros((1, 0), np.uint8) if before is None else before
        brows = round(255 * _mean(face, "browInnerUp", "browOuterUpLeft", "browOuterUpRight"))
        raised = levels.shape[1] >= MIN_LEVELS and brows > float(np.median(levels)) + 255 * RAISED
        number = max(1, self.mesh.num_faces(image))
        seen = "one face" if number == 1 else f"{number} faces, and of the clearest one this"
        kept = np.append(levels, np.array([[brows]], np.uint8), axis=1)[:, -LEVELS:]
        return f"I see {seen}: {expression(face, brows_raised=raised)}.", kept


def expression(face: FaceShape, *, brows_raised: bool = False) -> str:
    """What mouth, lids, brows and head do."""
    shut = _mean(face, "eyeBlinkLeft", "eyeBlinkRight") > SHUT_LIDS
    turned = abs(head_yaw(face.points[:NUM_MESH])) > AWAY_RAD
    found = {
        "you smile": _mean(face, "mouthSmileLeft", "mouthSmileRight") > SMILE,
        "your mouth is open": face.shapes["jawOpen"] > OPEN_MOUTH,
        "your eyes are closed": shut,
        "your brows are raised": brows_raised,
        "you look away": turned or (not shut and abs(glance(face)) > GLANCE),
    }
    parts = [words for words, holds in found.items() if holds] or ["you look calm"]
    return parts[0] if len(parts) == 1 else f"{', '.join(parts[:-1])} and {parts[-1]}"


def glance(face: FaceShape) -> float:
    """How far both irises are to the right in the picture, from the middle of their eye, in widths of the eye."""
    offsets = []
    for iris, *corners in IRISES:
        left, right = face.points[corners, :2]
        across = right - left
        offsets.append((face.points[iris, :2] - (left + right) / 2) @ across / (across @ across))
    return float(np.mean(offsets))


def _mean(face: FaceShape, *names: str) -> float:
    return float(np.mean([face.shapes[name] for name in names]))
