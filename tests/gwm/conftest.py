"""Faces for the tests of this folder: the project's own renders, seen by the face mesh."""

from dataclasses import dataclass

import numpy as np
import pytest

from data.actions import ACTION_NAMES, index
from data.characters.renderer import Renderer, identity
from gwm.media.face import FaceMesh
from gwm.optional import MissingPackageError

NUM_FRAMES = 24


@dataclass(frozen=True)
class Talk:
    """A rendered person who opens and closes the mouth without any rhythm, and turns the head a little."""

    frames: np.ndarray  # f h w 3
    mouth: np.ndarray  # f


@pytest.fixture(scope="session")
def mesh() -> FaceMesh:
    try:
        return FaceMesh()
    except MissingPackageError as error:
        pytest.skip(str(error))


@pytest.fixture(scope="session")
def talks() -> list[Talk]:
    """Three persons at 128 px."""
    renderer = Renderer(128)
    return [_talk(renderer, seed) for seed in (11, 12, 13)]


def _talk(renderer: Renderer, seed: int) -> Talk:
    rng = np.random.default_rng(seed)
    actions = np.zeros((NUM_FRAMES, len(ACTION_NAMES)), np.float32)
    actions[:, index("jawOpen")] = np.convolve(rng.random(NUM_FRAMES + 2), np.ones(3) / 3, mode="valid") ** 2
    actions[rng.integers(NUM_FRAMES), [index("eyeBlinkLeft"), index("eyeBlinkRight")]] = 1
    pose = np.stack([0.15 * np.sin(np.arange(NUM_FRAMES) / 8 + shift) for shift in rng.random(3)], 1).astype(np.float32)
    who = identity(seed, "anny")
    gaze = np.zeros((NUM_FRAMES, 2), np.float32)
    return Talk(renderer.render(who, actions, pose, gaze), renderer.mouth(who, actions))
