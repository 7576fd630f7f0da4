"""The world that ships: it opens, turns the way that it is told, and is still a world after a minute."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from data.worlds.maze import NAMES
from serve.artifact import PLACES, load_artifact
from serve.engine import Engine

WORLD = Path("weights/world")
PICTURES = sorted((WORLD / PLACES).glob("*.png"))
FARTHEST = 8  # px that the picture moves in a frame, at most; 6 where one turns on the spot


@pytest.fixture(scope="module")
def engine() -> Engine:
    return Engine(load_artifact(WORLD), seed=0, undo_chunks=1)


def walked(engine: Engine, picture: Path, actions: list[dict[str, int]]) -> Iterator[np.ndarray]:
    """Frames of a chunk under each action."""
    engine.start(np.array(Image.open(picture)))
    for action in actions:
        engine.act(action)
        yield engine.step()


def moved(frames: np.ndarray) -> float:
    """Pixels to the right by which the picture moves from frame to frame, on average."""
    grey = frames.astype(float).mean(-1)[:, 20:76]
    middle = grey[1:, :, FARTHEST:-FARTHEST]
    shifts = range(-FARTHEST, FARTHEST + 1)
    errors = [
        np.abs(middle - np.roll(grey[:-1], shift, axis=2)[:, :, FARTHEST:-FARTHEST]).mean((1, 2)) for shift in shifts
    ]
    return float(np.mean(np.argmin(errors, axis=0))) - FARTHEST


def test_it_has_places_and_the_mazes_keys(engine: Engine):
    assert len(PICTURES) >= 4
    assert tuple(control.name for control in engine.contract.controls) == NAMES


@pytest.mark.parametrize("picture", PICTURES, ids=lambda path: path.stem)
def test_left_and_right_turn_the_view_the_other_way(engine: Engine, picture: Path):
    """What is seen moves to the right where one turns to the left."""
    left, right = (
        moved(np.concatenate(list(walked(engine, picture, [{name: 1}] * 2)))) for name in ("turn_left", "turn_right")
    )
    assert left - right > 2


def test_a_minute_leaves_a_picture(engine: Engine):
    """Somebody walks and turns; the picture keeps the contrast and the brightness that pictures of the maze have."""
    rng = np.random.default_rng(0)
    turns = [dict(zip(NAMES, row, strict=True)) for row in ((1, 0, 0, 0), (0, 0, 1, 0), (1, 0, 0, 1), (0, 0, 0, 1))]
    actions = [dict(turns[rng.integers(4)]) for _ in range(60) for _ in range(6)]
    seen = [frames[-1].astype(float) for frames in walked(engine, PICTURES[0], actions)]
    true = [np.array(Image.open(path)).astype(float) for path in PICTURES]
    late, contrast = np.stack(seen[-60:]), np.mean([picture.std() for picture in true])
    assert 0.6 * contrast < late.std((1, 2, 3)).mean() < 1.4 * contrast
    assert abs(late.mean() - np.mean(true)) < 30
    assert np.abs(np.diff(late, axis=0)).mean() > 2  # and it moves
