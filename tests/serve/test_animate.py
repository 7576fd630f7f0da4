"""A portrait moved by given codes, from files to an mp4."""

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from gwm.autoencoders.motion.network import MotionNetwork
from gwm.autoencoders.protocol import KIND
from gwm.media.face import FaceMesh, face_square
from gwm.media.framing import Framing
from gwm.media.video import read_video
from gwm.resolution import Resolution
from gwm.weights import WeightsHeader, save_weights
from serve.animate import animate, read_codes
from serve.face_crop import framed
from serve.samples import sample_path
from tests.gwm.autoencoders.kit import TINY_MOTION


def write_codes(path: Path, code: np.ndarray) -> Path:
    np.savez(path, code=code.astype(np.float32), voice=np.zeros(len(code) * 1000, np.float32))
    return path


def test_the_whole_picture_is_resized_so_that_the_face_has_the_size_that_was_asked():
    image = Image.open(sample_path("portrait")).convert("RGB")
    picture, square = framed(image, Framing(Resolution(128, 128)), whole=True)
    found = face_square(picture, FaceMesh())
    assert found is not None and found[1] == pytest.approx(128, rel=0.06) and square.side == 128
    assert np.abs(found[0] - [square.left + 64, square.top + 64]).max() < 6
    cut, own = framed(image, Framing(Resolution(128, 128)), whole=False)
    found = face_square(cut, FaceMesh())
    assert found is not None and found[1] == pytest.approx(128, rel=0.06) and (own.left, own.top) == (0, 0)


def test_codes_of_rest_give_a_film_of_the_portrait(tmp_path: Path):
    """Ten codes are two latent frames; the rest of them is left out."""
    torch.manual_seed(0)
    save_weights(
        tmp_path / "w", MotionNetwork(TINY_MOTION).state_dict(), WeightsHeader(kind=KIND, config=TINY_MOTION.to_json())
    )
    codes = write_codes(tmp_path / "codes.npz", np.zeros((10, 57)))
    portrait = str(sample_path("portrait"))
    animate(str(tmp_path / "w"), image=portrait, codes=str(codes), out=str(tmp_path / "o.mp4"), size=96, whole=False)
    frames, fps = read_video(tmp_path / "o.mp4")
    framing = Framing(Resolution(96, 96), 24)
    still = framing.shown(framed(Image.open(portrait), framing, whole=False)[0])
    assert len(frames) == 8 and fps == 24
    assert np.abs(frames.astype(int) - still).mean() < 6  # H.264 at half the colours


@pytest.mark.parametrize("code", [np.zeros((8, 56)), np.zeros((3, 57)), np.zeros(57)])
def test_codes_of_another_shape_are_refused(tmp_path: Path, code: np.ndarray):
    with pytest.raises(ValueError, match=r"must be frames x 57, 4 frames or more"):
        read_codes(write_codes(tmp_path / "codes.npz", code))


def test_a_file_without_codes_is_refused(tmp_path: Path):
    np.savez(tmp_path / "x.npz", voice=np.zeros(3))
    with pytest.raises(ValueError, match=r"has \['voice'\], must have code and voice"):
        read_codes(tmp_path / "x.npz")
