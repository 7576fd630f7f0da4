"""A run that looks at held-out clips ends where one that does not look ends."""

import csv
import random
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from lightning.pytorch.loggers import CSVLogger

from data.shards import Clip
from distill import health
from distill.health import Validation
from tests.distill.test_dmd_stage import EVERY, Diary, diary, fit
from tests.tiny import RESOLUTION, tiny_vae
from tests.train.test_resume import LatentsInMemory, weights

FRAMES = 16
AXES = ("epoch", "step")


def clip(key: str) -> Clip:
    rng = np.random.default_rng(len(key))
    frames = rng.integers(0, 256, (FRAMES, *RESOLUTION.shape, 3), dtype=np.uint8)
    voice = rng.normal(0, 0.1, FRAMES * 1000).astype(np.float32)
    return Clip(key=key, frames=frames, agent=voice, user=-voice, reference=frames[0], truth=None, info={})


@pytest.fixture
def looks(monkeypatch: pytest.MonkeyPatch) -> list[list[np.ndarray]]:
    """What the judge was shown. It is a stand-in that also draws from every random state there is."""
    shown: list[list[np.ndarray]] = []

    def measure(judge: Any, played: Any, clips: list[Clip], *, chunk_frames: int) -> dict[str, float]:
        shown.append(played[0])
        return {"lip_sync": float(torch.rand(()) + np.random.rand() + random.random()), "psnr": 1.0, "motion": 2.0}

    monkeypatch.setattr(health, "Judge", lambda **_: torch.rand(3))
    monkeypatch.setattr(health, "held_out", lambda *_: [clip("a"), clip("bb")])
    monkeypatch.setattr(health, "measure", measure)
    monkeypatch.setattr(LatentsInMemory, "vae", tiny_vae(), raising=False)
    monkeypatch.setattr(LatentsInMemory, "resolution", RESOLUTION, raising=False)
    return shown


def trained(folder: Path, folders: dict[str, str], validate_every: int) -> tuple[Diary, tuple[float, ...]]:
    """The stage after its run, and what the three global random states then give."""
    logger = CSVLogger(folder, name="", version="")
    stage = diary(folders, validate_every=validate_every)
    for seed in (torch.manual_seed, np.random.seed, random.seed):
        seed(3)
    fit(stage, max_steps=12, logger=logger, log_every_n_steps=1)  # 9 batches, 3 of them the student's
    return stage, (torch.rand(()).item(), np.random.rand(), random.random())


def columns(folder: Path) -> dict[str, list[tuple[int, str]]]:
    """Logged values by name, with their steps."""
    with (folder / "metrics.csv").open() as file:
        rows = list(csv.DictReader(file))
    return {name: [(int(row["step"]), row[name]) for row in rows if row[name]] for name in rows[0]}


def test_looking_changes_nothing_and_is_logged(tmp_path: Path, looks: list[list[np.ndarray]]):
    folders = weights(tmp_path)
    (blind, drawn), (seeing, drawn_after) = (trained(tmp_path / str(every), folders, every) for every in (0, 2))
    assert drawn == drawn_after
    assert [key for key, v in blind.state_dict().items() if not torch.equal(v, seeing.state_dict()[key])] == []
    one, other = columns(tmp_path / "0"), columns(tmp_path / "2")
    assert len(one["train/critic_loss"]) == 9
    assert {name: other[name] for name in one if name not in AXES} == {n: v for n, v in one.items() if n not in AXES}
    # Student updates 0 and 2, at every EVERY-th batch.
    assert [step for step, _ in other["health/val_lip_sync"]] == [0, 2 * EVERY]
    assert {value for _, value in other["health/val_motion"]} == {"2.0"}
    assert "health/val_psnr" not in other and "health/val_motion" not in one
    assert len(looks) == 2 and [len(frames) for frames in looks[0]] == [8, 8]  # a window's context is left out
    assert not np.array_equal(looks[0][0], looks[1][0]), "the student of the moment is looked at"


def test_a_rhythm_below_one_is_an_error():
    with pytest.raises(ValueError, match="validate_every=0 must be >= 1"):
        Validation(every=0)
