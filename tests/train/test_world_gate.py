"""The gate of a world says how near pictures are to what happened, and how much of that its actions decide."""

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from hydra.utils import instantiate
from torch import nn

from data.shards import Clip
from data.worlds.__main__ import record_world
from gwm.resolution import Resolution
from gwm.weights import WeightsHeader
from tests.test_configs import composed

CLIPS, SIDE = 3, 16


def moved(frames: np.ndarray, by: int) -> np.ndarray:
    """Every value off by as much, within the range."""
    return np.where(frames < 128, frames + np.uint8(by), frames - np.uint8(by))


class Player:
    """A stage whose pictures are off by 1 in the first second, by 10 after it, and by 20 under others' actions."""

    takes_sound, takes_actions = False, True

    def weights(self) -> tuple[nn.Module, WeightsHeader]:
        return nn.Linear(1, 1), WeightsHeader(kind="dit", config={})

    def decode(self, model: nn.Module, clips: list[Clip], data: Any, *, batch_size: int, swap_voices: bool) -> Any:
        assert not model.training
        shown = [np.concatenate([moved(clip.frames[:24], 1), moved(clip.frames[24:], 10)]) for clip in clips]
        return [moved(clip.frames, 20) for clip in clips] if swap_voices else shown, [0] * len(clips)


class Frozen(Player):
    """Shows the reference for ever."""

    def decode(self, model: nn.Module, clips: list[Clip], data: Any, *, batch_size: int, swap_voices: bool) -> Any:
        return [np.broadcast_to(clip.reference, clip.frames.shape) for clip in clips], [0] * len(clips)


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Any:
    shards = tmp_path_factory.mktemp("maze")
    record_world(
        out=str(shards), workers=1, env="maze", resolution=SIDE, num_frames=48, train=1, val=CLIPS, test=0, seed=0,
        policy="scripted", hold_s=0.4, warmup_s=0.0,
    )  # fmt: skip
    return SimpleNamespace(shards=shards, resolution=Resolution(SIDE, SIDE))


def ended(stage: Any, data: Any, folder: Path, **changes: Any) -> dict[str, Any]:
    """The gate that the finish of worlds leaves."""
    cfg = composed("train", ["stage=bidirectional", "experiment=world_nano"])
    instantiate(cfg.finish, _convert_="all", before=None, **changes)(stage, data, folder)
    return json.loads((folder / "gate.json").read_text())


def test_pictures_are_measured_against_what_happened_and_under_others_actions(data: Any, tmp_path: Path):
    gate = ended(Player(), data, tmp_path)
    first, later, swapped = (20 * np.log10(255 / off) for off in (1, 10, 20))
    assert gate["clips"] == CLIPS and gate["psnr_start"] == pytest.approx(first, abs=1e-3)
    assert gate["psnr"] == pytest.approx((first + later) / 2, abs=1e-3)
    assert gate["obeys_db"] == pytest.approx((first + later) / 2 - swapped, abs=1e-3)
    assert (gate["failed"], gate["not_measured"]) == ([], [])


def test_a_picture_that_never_changes_does_not_obey(data: Any, tmp_path: Path):
    gate = ended(Frozen(), data, tmp_path)
    assert gate["psnr"] == gate["still_db"] < 30 and gate["motion"] == gate["obeys_db"] == 0
    assert gate["failed"] == ["obeys_db=0.000 must be >= 2.000"]


def test_what_cannot_be_measured_is_said(data: Any, tmp_path: Path):
    """A single clip has no other's actions; an autoencoder has none at all."""
    assert ended(Player(), data, tmp_path, clips=1)["not_measured"] == ["obeys_db"]
    stage = Player()
    stage.takes_actions = False
    assert "obeys_db" not in ended(stage, data, tmp_path)
