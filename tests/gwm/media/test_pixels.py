"""Pixels at the edges of the system."""

import warnings

import numpy as np
import pytest
import torch

from gwm.media.pixels import to_float, to_uint8


def test_every_level_comes_back():
    levels = np.arange(256, dtype=np.uint8).repeat(3).reshape(1, 16, 16, 3)
    floats = to_float(levels)
    assert floats.shape == (1, 3, 16, 16)
    assert (floats.min(), floats.max()) == (-1, 1)
    assert np.array_equal(to_uint8(floats), levels)


def test_what_lies_outside_is_clamped():
    assert (
        to_uint8(torch.tensor([-2.0, 2.0]).view(2, 1, 1, 1).expand(2, 3, 1, 1)).ravel().tolist() == [0] * 3 + [255] * 3
    )


def test_a_decoded_picture_that_nobody_may_write_to_warns_nobody():
    frames = np.zeros((1, 4, 4, 3), np.uint8)
    frames.flags.writeable = False
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert to_float(frames).max() == pytest.approx(-1)
