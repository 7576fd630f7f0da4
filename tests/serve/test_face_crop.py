"""Difficult portraits: each gives the face's square where it lies, or a sentence that says what is wrong."""

import logging

import numpy as np
import pytest
from PIL import Image, ImageDraw

from data.actions import ACTION_NAMES
from data.characters.renderer import Renderer, identity
from gwm.media.face import FaceMesh, face_square
from gwm.media.framing import Framing
from gwm.resolution import Resolution
from serve.face_crop import LONGEST, framed
from serve.samples import sample_path

SIZE = 256
FRAMING = Framing(Resolution(SIZE, SIZE))
GREY = (128, 128, 128)


@pytest.fixture(scope="module")
def photograph() -> Image.Image:
    """512x600 px, one face of 284 px."""
    return Image.open(sample_path("portrait")).convert("RGB")


def assert_framed(image: Image.Image, *, whole: bool) -> np.ndarray:
    """The square that is cut out is where a detector finds the face's."""
    picture, square = framed(image, FRAMING, whole=whole)
    cut = square.cut(picture)
    found = face_square(cut, FaceMesh())
    assert found is not None and cut.shape == (SIZE, SIZE, 3)
    assert found[1] == pytest.approx(SIZE, rel=0.06) and np.abs(found[0] - SIZE / 2).max() < 8
    return picture


@pytest.mark.parametrize("whole", [False, True])
def test_a_lying_or_standing_picture_is_turned(photograph: Image.Image, whole: bool, caplog: pytest.LogCaptureFixture):
    upright = assert_framed(photograph, whole=whole)
    for turns in (1, 2):
        turned = Image.fromarray(np.rot90(np.asarray(photograph), turns))
        assert np.array_equal(assert_framed(turned, whole=whole), upright)
        assert f"turned counterclockwise by {360 - 90 * turns} degrees" in caplog.text


@pytest.mark.parametrize("whole", [False, True])
def test_of_several_faces_one_is_used_and_named(photograph: Image.Image, whole: bool, caplog: pytest.LogCaptureFixture):
    both = Image.new("RGB", (1024, 600))
    both.paste(photograph, (0, 0))
    both.paste(photograph.resize((341, 400)), (560, 100))
    assert_framed(both, whole=whole)
    assert "1024x600 px shows 2 faces: that at (" in caplog.text


@pytest.mark.parametrize("whole", [False, True])
def test_what_is_transparent_is_grey(photograph: Image.Image, whole: bool):
    mask = Image.new("L", photograph.size)
    ImageDraw.Draw(mask).ellipse((80, 0, 430, 520), fill=255)
    transparent = photograph.convert("RGBA")
    transparent.putalpha(mask)
    picture = assert_framed(transparent, whole=whole)
    assert tuple(picture[2, -2] if whole else picture[2, -1]) == GREY


@pytest.mark.parametrize("whole", [False, True])
def test_a_large_photograph_is_framed_as_a_small_one(photograph: Image.Image, whole: bool):
    large = photograph.resize((4000, 4688), Image.Resampling.BICUBIC)
    picture, small = assert_framed(large, whole=whole), assert_framed(photograph, whole=whole)
    assert np.abs(np.array(picture.shape) - small.shape).max() <= 8


@pytest.mark.slow
def test_a_face_in_a_very_wide_picture_is_cut_out_or_the_largest_size_is_said(photograph: Image.Image):
    wide = Image.new("RGB", (8000, 600), (70, 90, 60))
    wide.paste(photograph, (6500, 0))
    assert_framed(wide, whole=False)
    with pytest.raises(ValueError, match=rf"size=256 makes the whole picture 7...x5.. px, .*{LONGEST}.*: size=1\d\d"):
        framed(wide, FRAMING, whole=True)
    assert max(framed(wide, Framing(Resolution(140, 140)), whole=True)[0].shape) <= LONGEST


def test_a_small_face_is_enlarged_alone_and_it_is_said(photograph: Image.Image, caplog: pytest.LogCaptureFixture):
    small = Image.new("RGB", (1200, 800), (70, 90, 60))
    small.paste(photograph.resize((171, 200)), (500, 300))
    picture, _ = framed(small, Framing(Resolution(1080, 1080)), whole=False)
    assert picture.shape == (1080, 1080, 3) and "looks soft. Use a larger picture" in caplog.text
    caplog.clear()
    framed(photograph, FRAMING, whole=True)
    assert not caplog.text


def test_a_profile_is_said_with_its_angle(caplog: pytest.LogCaptureFixture):
    caplog.set_level(logging.WARNING)
    who, rest = identity(1003, "anny"), np.zeros((1, len(ACTION_NAMES)), np.float32)
    angles = []
    for yaw in (0.2, 0.8, 1.4):
        pose = np.array([[yaw, 0, 0]], np.float32)
        drawn = Renderer(SIZE).render(who, rest, pose, np.zeros((1, 2), np.float32))[0]
        caplog.clear()
        framed(Image.fromarray(drawn), FRAMING, whole=False)
        angles.append(caplog.text)
    assert not angles[0] and "the face looks 4" in angles[1] and "turned away, covered or none" in angles[2]


@pytest.mark.parametrize("whole", [False, True])
def test_a_picture_without_a_face_is_refused(whole: bool):
    with pytest.raises(ValueError, match="300x200 px must show a face, and none was found: use a portrait in which"):
        framed(Image.new("RGB", (300, 200), GREY), FRAMING, whole=whole)
