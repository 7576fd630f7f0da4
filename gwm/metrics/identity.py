"""Identity: face embeddings of frames against that of the reference image."""

import itertools
from collections.abc import Callable, Mapping

import numpy as np
from jaxtyping import Float, UInt8
from PIL import Image

from gwm.media.face import EYE_CORNERS, NOSE_BASE, FaceMesh
from gwm.optional import optional_folder, optional_module

DLIB_COMMAND = "pip install dlib-bin==20.0.1.post1"
WEIGHTS_COMMAND = "pip install --no-deps face-recognition-models==0.3.0"
WEIGHTS = "models/dlib_face_recognition_resnet_model_v1.dat"

FIVE_POINTS = (EYE_CORNERS[3], EYE_CORNERS[2], EYE_CORNERS[0], EYE_CORNERS[1], NOSE_BASE)  # dlib's five-point order
EYES_PX = 150  # distance of the outer eye corners before alignment; dlib takes landmarks as whole pixels only


Embed = Callable[[UInt8[np.ndarray, "h w 3"]], Float[np.ndarray, "128"] | None]


class FaceEmbedding:
    """128 numbers a face, by dlib's ResNet-34 (CC0 weights), aligned with our own landmarks.

    dlib's landmark predictor is not used: its training data is not free for commercial use.

    Raises:
        MissingPackageError: dlib or the weights are not installed.
    """

    def __init__(self, mesh: FaceMesh) -> None:
        self.mesh = mesh
        self.dlib = optional_module("dlib", DLIB_COMMAND)
        weights = optional_folder("face_recognition_models", WEIGHTS_COMMAND) / WEIGHTS
        self.network = self.dlib.face_recognition_model_v1(str(weights))

    def __call__(self, image: UInt8[np.ndarray, "h w 3"]) -> Float[np.ndarray, "128"] | None:
        """Embedding, about unit length, or None where no face is found."""
        points = self.mesh.landmarks(image)
        if points is None:
            return None
        five = points[list(FIVE_POINTS), :2]
        scale = EYES_PX / float(np.linalg.norm(five[0] - five[2]))
        size = (round(image.shape[1] * scale), round(image.shape[0] * scale))
        large = np.asarray(Image.fromarray(image).resize(size, Image.Resampling.BICUBIC))
        whole = self.dlib.rectangle(0, 0, size[0] - 1, size[1] - 1)
        parts = [self.dlib.point(round(x), round(y)) for x, y in (five * scale).tolist()]
        return np.array(self.network.compute_face_descriptor(large, self.dlib.full_object_detection(whole, parts)))


def identity_similarity(
    frames: UInt8[np.ndarray, "f h w 3"], reference: UInt8[np.ndarray, "h w 3"], embed: Embed
) -> Float[np.ndarray, " f"]:
    """1 - distance to the reference's embedding, per frame; NaN where no face is found.

    1 is the same picture. What the numbers between mean depends on the pictures: dlib's authors take two photographs
    for one person above 0.4, but two different people of `data.characters` have 0.48 on average and 0.60 at the 95th
    percentile. Judge by `share` between `stranger_similarity` and what the renders themselves have.

    Raises:
        ValueError: the reference shows no face.
    """
    target = embed(reference)
    if target is None:
        height, width = reference.shape[:2]
        raise ValueError(f"reference of {width}x{height} px must show a face, and none was found: use a frontal one.")
    return np.array([_similarity(embed(frame), target) for frame in frames])


def stranger_similarity(references: Mapping[str, UInt8[np.ndarray, "h w 3"]], embed: Embed) -> float:
    """Mean similarity of different people, whose reference images are given by name: the floor of an identity's scale.
    NaN where fewer than two show a face."""
    found = [embedding for image in references.values() if (embedding := embed(image)) is not None]
    pairs = [_similarity(one, other) for one, other in itertools.combinations(found, 2)]
    return float(np.mean(pairs)) if pairs else float("nan")


def share(value: float, *, floor: float, ceiling: float) -> float:
    """How far a value has come from unrelated data (0) to the data itself (1)."""
    return (value - floor) / (ceiling - floor)


def _similarity(embedding: Float[np.ndarray, "128"] | None, target: Float[np.ndarray, "128"]) -> float:
    return float("nan") if embedding is None else 1 - float(np.linalg.norm(embedding - target))
