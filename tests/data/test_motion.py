"""Pairs of pictures with exact motion: what is read is what was drawn, and mirrored as a whole."""

import dataclasses
from pathlib import Path

import numpy as np
import pytest
import torch

from data.characters.exact_flow import MotionRenderer
from data.characters.renderer import Renderer
from data.motion import PairSettings, make, make_pair, pair_path, picture, read_pair, write_pair
from data.motion_batch import MotionPairs, collate, draw_pictures, moving_layer, working
from gwm.autoencoders.motion.code import place

SETTINGS = PairSettings(resolution=256, frames=4, seed=3, flat_share=0.5)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("motion")
    write_pair(("train", 0), out=str(folder), settings=SETTINGS)
    return folder


def test_a_pair_is_the_same_every_time_and_read_as_it_was_drawn(folder: Path):
    """JPEG changes pixels by little, everything else by nothing."""
    stored = make_pair(MotionRenderer(Renderer(256)), "train", 0, SETTINGS)
    pair = read_pair(pair_path(folder, "train", 0))
    assert np.array_equal(pair.actions, stored["actions"])
    for person, name in zip(pair.people, "ab", strict=True):
        assert np.array_equal(person.flow, stored[f"flow_{name}"])
        assert np.array_equal(np.concatenate([person.reference, *person.frames]), stored[f"jpeg_{name}"])
        assert len(person.frames) == 4 and picture(person.frames[0]).shape == (256, 256, 3)
        assert person.visible.shape == (4, 64, 64) and person.person.shape == (256, 256)


def test_a_cut_off_pair_is_named(folder: Path, tmp_path: Path):
    whole = pair_path(folder, "train", 0).read_bytes()
    path = tmp_path / "train-000000.npz"
    path.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(ValueError, match=r"train-000000.npz cannot be read as a pair .*run data.motion again"):
        read_pair(path)


def test_a_folder_of_other_settings_is_refused(tmp_path: Path):
    (tmp_path / "settings.json").write_text('{"seed": 1}')
    with pytest.raises(ValueError, match="choose another out"):
        make(SETTINGS, out=str(tmp_path), train=0, val=0, workers=1)


def test_a_mirrored_picture_has_the_mirrored_flow_and_code(folder: Path):
    """Without a tint: the first of the draws that mirrors."""
    pair = read_pair(pair_path(folder, "train", 0))
    plain = draw_pictures(pair, pair.people[0], 4, None)
    for seed in range(40):
        drawn = draw_pictures(pair, pair.people[0], 4, np.random.default_rng(seed))
        order = [int(np.abs(drawn["code"][k][None, 24] - plain["code"][:, 24]).argmin()) for k in range(4)]
        mirrored = plain["flow"][order][..., ::-1] * np.array([-1, 1])[:, None, None]
        if np.allclose(drawn["flow"], mirrored):
            break
    else:
        raise AssertionError("no draw of 40 was mirrored")
    left, right = place("eyeBlinkLeft"), place("eyeBlinkRight")
    np.testing.assert_allclose(drawn["code"][:, left], plain["code"][order][:, right])
    np.testing.assert_allclose(drawn["code"][:, place("yaw")], -plain["code"][order][:, place("yaw")])
    assert np.array_equal(drawn["inside"], plain["inside"][order][..., ::-1])
    grey = [images["images"][0, 0].mean(-1).astype(float) for images in (drawn, plain)]
    assert np.corrcoef(grey[0].ravel(), grey[1][:, ::-1].ravel())[0, 1] > 0.95


def test_a_batch_of_large_pictures_is_as_large_as_any(folder: Path):
    """Memory and time of training do not grow with the pictures; those of 512 px are the same ones, sharper."""
    pair = read_pair(pair_path(folder, "train", 0))
    renderer, settings = MotionRenderer(Renderer(512)), dataclasses.replace(SETTINGS, resolution=512)
    (folder / "large").mkdir()
    np.savez(pair_path(folder / "large", "train", 0), **make_pair(renderer, "train", 0, settings))
    large = read_pair(pair_path(folder / "large", "train", 0))
    assert picture(large.people[0].frames[0]).shape == (512, 512, 3)
    drawn, plain = (draw_pictures(each, each.people[0], 4, None) for each in (large, pair))
    assert {name: part.shape for name, part in drawn.items()} == {name: part.shape for name, part in plain.items()}
    assert all(np.array_equal(drawn[name], plain[name]) for name in ("code", "flow"))
    assert np.abs(drawn["images"].astype(float) - plain["images"]).mean() < 3
    with pytest.raises(ValueError, match="pictures of 128 px must have at least the 256 px"):
        working(np.zeros((128, 128, 3), np.uint8))


def test_a_batch_depends_on_seed_and_step_alone(folder: Path):
    def drawn(step: int) -> torch.Tensor:
        pairs = MotionPairs([pair_path(folder, "train", 0)], pictures=2, seed=5)
        return collate([pairs[(step, 0, 0)]]).frames

    assert torch.equal(drawn(3), drawn(3))
    assert not torch.equal(drawn(3), drawn(4))


def test_the_moving_layer_holds_the_person_with_a_margin():
    person = np.zeros((256, 256), bool)
    person[100:, 80:180] = True
    layer = moving_layer(person)
    assert layer[60:, 42:88].min() > 0.99
    assert layer[:44].max() < 0.01 and layer[:, :34].max() < 0.01
