import io

import numpy as np
import pytest
from PIL import Image

from gwm.media.face import EYES_AT, MOUTH_AT, eyes_and_mouth
from gwm.media.framing import Framing
from gwm.media.portraits import crop_to_face
from gwm.resolution import Resolution

SQUARE = Resolution(128, 128)


def on_canvas(head: np.ndarray, canvas: tuple[int, int], at: tuple[int, int], side: int) -> Image.Image:
    picture = Image.new("RGB", canvas, (90, 110, 130))
    picture.paste(Image.fromarray(head).resize((side, side), Image.Resampling.LANCZOS), at)
    return picture


def assert_framed(points: np.ndarray) -> None:
    eyes, mouth = eyes_and_mouth(points)
    assert eyes / 128 == pytest.approx(np.array([0.5, EYES_AT]), abs=0.07)
    assert mouth / 128 == pytest.approx(np.array([0.5, MOUTH_AT]), abs=0.07)


@pytest.mark.parametrize("mode", ["RGB", "L", "RGBA", "P", "CMYK"])
def test_crop_frames_the_face_as_training_data_does(mesh, talks, mode):
    for talk in talks:
        picture = on_canvas(talk.frames[0], (640, 480), (200, 90), 220).convert(mode)
        assert_framed(mesh.landmarks(crop_to_face(picture, SQUARE, mesh)))


def test_renders_are_framed_as_crops_are(mesh, talks):
    for talk in talks:
        assert_framed(mesh.landmarks(talk.frames[0]))


def test_the_frame_of_a_crop_with_a_margin_is_the_crop_without(mesh, talks):
    """To the rounding of its corners to whole px."""
    picture = on_canvas(talks[0].frames[0], (640, 480), (200, 90), 220)
    framing = Framing(SQUARE, 32)
    wide = crop_to_face(picture, SQUARE, mesh, margin=32)
    assert wide.shape == (192, 192, 3)
    assert np.abs(framing.shown(wide).astype(int) - crop_to_face(picture, SQUARE, mesh)).mean() < 3
    assert (wide[2, 2] == (90, 110, 130)).all()  # of the picture around the face


def test_crop_obeys_exif_rotation(mesh, talks):
    upright = on_canvas(talks[0].frames[0], (300, 300), (40, 40), 220)
    exif = Image.Exif()
    exif[0x0112] = 6  # "rotate by 90 degrees to see it": the stored pixels lie on their side
    stored = io.BytesIO()
    upright.transpose(Image.Transpose.ROTATE_90).save(stored, "PNG", exif=exif)
    assert np.array_equal(crop_to_face(Image.open(stored), SQUARE, mesh), crop_to_face(upright, SQUARE, mesh))


@pytest.mark.parametrize("turns", [1, 2, 3])
def test_a_face_that_is_not_upright_is_turned_and_it_is_said(mesh, talks, caplog, turns):
    upright = on_canvas(talks[0].frames[0], (300, 300), (40, 40), 220)
    lying = Image.fromarray(np.rot90(np.asarray(upright), turns))
    assert np.array_equal(crop_to_face(lying, SQUARE, mesh), crop_to_face(upright, SQUARE, mesh))
    assert f"turned counterclockwise by {360 - 90 * turns} degrees" in caplog.text


def test_a_tilted_face_keeps_its_tilt(mesh, talks, caplog):
    picture = on_canvas(talks[0].frames[0], (300, 300), (40, 40), 220).rotate(25, fillcolor=(90, 110, 130))
    crop_to_face(picture, SQUARE, mesh)
    assert "turned counterclockwise" not in caplog.text


def test_several_faces_are_said_with_the_place_of_the_one_that_is_used(mesh, talks, caplog):
    picture = on_canvas(talks[0].frames[0], (560, 280), (0, 0), 280)
    picture.paste(Image.fromarray(talks[1].frames[0]).resize((280, 280)), (280, 0))
    crop_to_face(picture, Resolution(64, 64), mesh)
    assert "560x280 px shows 2 faces: that at (" in caplog.text


def test_a_small_portrait_is_said_with_both_sizes(mesh, talks, caplog):
    small = Image.fromarray(talks[0].frames[0]).resize((48, 48), Image.Resampling.LANCZOS)
    crop_to_face(small, SQUARE, mesh)
    assert "48x48 px gives a part of " in caplog.text and "times to 128x128 px and looks soft" in caplog.text
    caplog.clear()
    crop_to_face(Image.fromarray(talks[0].frames[0]), SQUARE, mesh)
    assert not caplog.text


def test_a_large_photograph_is_framed_as_a_small_one(mesh, talks):
    small = on_canvas(talks[0].frames[0], (400, 300), (90, 40), 220)
    large = small.resize((4000, 3000), Image.Resampling.BICUBIC)
    assert_framed(mesh.landmarks(crop_to_face(large, SQUARE, mesh)))


def test_a_picture_without_a_face_is_refused(mesh):
    with pytest.raises(ValueError, match="300x200 px must show a face"):
        crop_to_face(Image.new("RGB", (300, 200), (127, 127, 127)), SQUARE, mesh)
