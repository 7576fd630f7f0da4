import numpy as np
import pytest

from gwm.media.framing import Box, Framing, continued, cut, cut_exactly, framed_centre, framed_face
from gwm.resolution import Resolution

WIDE, TALL, SQUARE = Resolution(48, 96), Resolution(96, 48), Resolution(64, 64)


@pytest.mark.parametrize(
    ("picture", "resolution", "expected"),
    [
        ((720, 1280), WIDE, Box(640.0, 360.0, 1280.0, 640.0)),
        ((720, 1280), TALL, Box(640.0, 360.0, 360.0, 720.0)),
        ((720, 1280), SQUARE, Box(640.0, 360.0, 720.0, 720.0)),
        ((1280, 721), SQUARE, Box(360.5, 640.0, 721.0, 721.0)),
    ],
)
def test_the_largest_part_of_the_aspect_lies_in_the_middle(
    picture: tuple[int, int], resolution: Resolution, expected: Box
):
    assert framed_centre(picture, resolution) == expected


def test_a_square_frame_shows_the_faces_square_even_beyond_the_picture():
    assert framed_face((100, 100), (10.0, 20.0), 80.0, SQUARE) == Box(10.0, 20.0, 80.0, 80.0)


@pytest.mark.parametrize(("x", "expected"), [(100.0, 180.0), (500.0, 500.0), (1250.0, 1100.0)])
def test_other_frames_have_the_face_in_the_middle_as_far_as_the_picture_goes(x: float, expected: float):
    assert framed_face((720, 1280), (x, 90.0), 80.0, TALL) == Box(expected, 360.0, 360.0, 720.0)


def test_a_cut_keeps_the_aspect():
    """Every pixel has its place as its colour: 2 px of the picture to one of the frame, rows and columns alike."""
    rows, columns = np.mgrid[:200, :240].astype(np.uint8)
    part = cut(np.dstack([rows, columns, columns]), Box(140.0, 100.0, 192.0, 96.0), WIDE)
    assert part.shape == (48, 96, 3)
    assert np.abs(np.diff(part[2:-2, 2:-2, 0].astype(int), axis=0) - 2).max() <= 1
    assert np.abs(np.diff(part[2:-2, 2:-2, 1].astype(int), axis=1) - 2).max() <= 1
    assert part[0, 0, :2].tolist() == pytest.approx([52, 44], abs=1)


def test_outside_the_picture_it_is_mirrored_and_ever_softer():
    """A row of stripes goes on across the edge, where stretching it would end them."""
    picture = np.zeros((200, 200, 3), np.uint8)
    picture[:, ::8] = picture[:, 1::8] = picture[:, 2::8] = picture[:, 3::8] = 240
    wide = continued(picture, 0, 0, 50, 0).astype(int)
    assert np.array_equal(wide[:, 50:], picture)
    assert np.abs(wide[:, 49] - picture[:, 1]).max() < 30
    contrast = [np.ptp(wide[100, at : at + 8, 0]) for at in (42, 0)]
    assert contrast[0] > 100 > 40 > contrast[1]
    assert abs(wide[:, :40].mean() - 120) < 20


def test_a_margin_shows_what_lies_around_the_frame():
    rows, columns = np.mgrid[:200, :240].astype(np.uint8)
    picture, framing = np.dstack([rows, columns, columns]), Framing(SQUARE, 16)
    box = Box(120.0, 100.0, 64.0, 64.0)
    kept = cut(picture, framing.around(box), framing.kept)
    assert kept.shape == (96, 96, 3)
    assert np.array_equal(framing.shown(kept), cut(picture, box, SQUARE))


@pytest.mark.parametrize("size", [96.0, 384.0])
def test_an_exact_cut_is_turned_upright_and_lies_between_pixels(size: float):
    """Every pixel has its place as its colour, so that each says where it was taken from; edges are repeated."""
    rows, columns = np.mgrid[:200, :240].astype(np.uint8)
    part = cut_exactly(np.dstack([rows, columns, columns]), Box(120.25, 100.5, size, size, 0.3), Resolution(96, 96))
    place = (np.arange(96) + 0.5) / 96 * size - size / 2
    x, y = np.meshgrid(place, place)
    at_x, at_y = 120.25 + np.cos(0.3) * x - np.sin(0.3) * y - 0.5, 100.5 + np.sin(0.3) * x + np.cos(0.3) * y - 0.5
    for found, at, most in ((part[..., 0], at_y, 199), (part[..., 1], at_x, 239)):
        margin = 3 * size / 96  # which interpolation sees
        inside = (at > margin) & (at < most - margin)
        assert np.abs(found - at)[inside].max() < 1.5 and inside.mean() > 0.1
        assert np.abs(found - at.clip(0, most)).max() < margin
