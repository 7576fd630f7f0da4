import numpy as np
import pytest

from data.crops import halve, motion, moving_crops
from gwm.media.pixels import to_float, to_uint8


def clip_with_a_moving_dot() -> np.ndarray:
    frames = np.full((8, 128, 128, 3), 100, np.uint8)
    for t in range(8):
        frames[t, 100 + t % 2, 20:24] = 255
    return frames


def test_motion_is_where_pixels_change():
    moving = motion(clip_with_a_moving_dot())
    assert moving[100:102, 20:24].min() > 100
    assert moving[:99].max() == 0


def test_crops_favour_what_moves():
    rng = np.random.default_rng(0)
    crops = moving_crops(clip_with_a_moving_dot(), rng, num_crops=200, num_frames=4, size=32, half_share=0.0)
    share = (crops.max(axis=(1, 2, 3, 4)) == 255).mean()
    assert share > 0.3  # a uniform draw would find the dot in 1 of 13 crops


def test_a_crop_larger_than_the_clip_is_an_error():
    with pytest.raises(ValueError, match="must hold a crop"):
        moving_crops(
            np.zeros((4, 16, 16, 3), np.uint8),
            np.random.default_rng(0),
            num_crops=1,
            num_frames=4,
            size=32,
            half_share=0.0,
        )


def test_halving_averages():
    frames = np.array([[0, 4], [8, 12]], np.uint8)[None, ..., None].repeat(3, -1)
    assert halve(frames).ravel().tolist() == [6, 6, 6]


def test_pixels_survive_the_way_to_floats_and_back():
    pixels = np.random.default_rng(0).integers(0, 256, (2, 3, 4, 5, 3)).astype(np.uint8)
    assert np.array_equal(to_uint8(to_float(pixels)), pixels)
