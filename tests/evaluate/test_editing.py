"""What the measures of edits see: what changes outside of a mask, and not what changes inside."""

from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from evaluate import editing
from evaluate.editing import decibels, outside, settings_of, simple
from gwm.media.video import read_video, write_video
from gwm.resolution import Resolution
from serve.editing.request import EditRequest

SIDE, COUNT = 96, 4


@pytest.fixture
def film(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """Smooth pictures; the model that edits them sees them as they are."""
    rules = SimpleNamespace(contract=SimpleNamespace(resolution=Resolution(SIDE, SIDE)))
    monkeypatch.setattr(editing, "load_artifact", lambda _: rules)
    y, x = np.mgrid[:SIDE, :SIDE]
    waves = [127 + 60 * np.sin((x + 3 * k) / 9) * np.cos(y / 7) for k in range(COUNT)]
    write_video(tmp_path / "film.mp4", np.stack(waves).astype(np.uint8)[..., None].repeat(3, axis=3), None)
    return str(tmp_path / "film.mp4")


def measured(film: str, changed: np.ndarray, folder: Path) -> tuple[np.ndarray, float, float]:
    """Of a film that is brighter by 40 where it is `changed`, edited in the box of the evaluation."""
    made = read_video(film)[0]
    made[:, changed] = np.clip(made[:, changed].astype(int) + 40, 0, 255)
    write_video(folder / "out.mp4", made, None)
    asked = {"video": film, "out": str(folder / "out.mp4"), "artifact": "A"} | settings_of("box", SIDE, COUNT)
    return outside(EditRequest(**asked), made, folder)


def test_noise_is_looked_for_outside_of_the_mask_alone(film: str, tmp_path: Path):
    box = np.zeros((SIDE, SIDE), bool)
    box[32:64, 32:64] = True
    inner, beside = np.zeros_like(box), np.zeros_like(box)
    inner[40:56, 40:56] = True
    beside[:16, :16] = True
    masks, kept, quiet = measured(film, inner, tmp_path)
    assert np.array_equal(masks, np.stack([box] * COUNT)) and kept == 1
    _, kept, loud = measured(film, beside, tmp_path)
    assert kept == 1  # the pictures that were written are not those that were read again
    share = beside.sum() / (~box).sum()
    assert quiet > 38 and loud == pytest.approx(decibels(share * (40 * 219 / 255) ** 2), abs=0.5)


def test_a_px_outside_that_changes_before_encoding_is_not_kept(
    film: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    own = editing.written

    def spoilt(*values: Any) -> Iterator[Any]:
        for moment_s, frame, drawn in own(*values):
            np.frombuffer(memoryview(frame.planes[0]), np.uint8)[0] ^= 1
            yield moment_s, frame, drawn

    monkeypatch.setattr(editing, "written", spoilt)
    _, kept, _ = measured(film, np.ones((SIDE, SIDE), bool), tmp_path)
    assert kept == pytest.approx(1 - 1 / (SIDE**2 - 32**2))


def test_the_comparison_between_two_times_is_the_last_picture_before():
    film = np.arange(4, dtype=np.uint8)[:, None, None, None].repeat(2, axis=1).repeat(2, axis=2).repeat(3, axis=3)
    drawn = np.zeros((4, 2, 2), bool)
    drawn[2:] = True
    assert simple("between", film, drawn, 0)[:, 0, 0, 0].tolist() == [0, 1, 1, 1]
    assert simple("canvas", film, drawn, 2).shape == (4, 6, 6, 3)
