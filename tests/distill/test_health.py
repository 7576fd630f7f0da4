"""Measures of clips whose statistics are known, and the alarm's bookkeeping."""

import math
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from distill.health import CollapseAlarm, CollapseError, clip_health, exit_shares

ROUND = 1e-5
pytestmark = pytest.mark.usefixtures("unchecked")  # the trainer here is a stand-in


def test_statistics_of_a_clip_are_those_of_its_chunks():
    data = torch.tensor([-1.0, 1.0, -1.0, 1.0]).view(1, 4, 1, 1, 1)
    clip = torch.tensor([0.0, 2.0, 4.0, 4.0]).view(1, 4, 1, 1, 1)
    found = clip_health(clip, data, chunk_frames=2)
    expected = {
        "mean_chunk0": 1.0,
        "mean_chunk1": 4.0,
        "std_chunk0": 2**0.5,
        "std_chunk1": 0.0,
        "std_of_data": (11 / 3) ** 0.5 / (4 / 3) ** 0.5,
        "motion_of_data": (4 / 3) / 2,
        "saturation": 0.5,
    }
    assert {name: value.item() for name, value in found.items()} == pytest.approx(expected, rel=ROUND)


def test_a_clip_of_one_frame_has_no_motion():
    assert clip_health(torch.ones(1, 1, 1, 2, 2), torch.randn(1, 2, 1, 2, 2), chunk_frames=1)["motion_of_data"] == 0


def test_exits_are_counted_as_shares():
    shares = exit_shares(torch.tensor([1, 0, 3]))
    assert [share.item() for share in shares.values()] == [0.25, 0.0, 0.75]
    assert all(share == 0 for share in exit_shares(torch.zeros(2, dtype=torch.long)).values())


class Strategy:
    """One process; or one of several, whose others all say `others`."""

    def __init__(self, others: bool | None = None) -> None:
        self.others = others

    def reduce_boolean_decision(self, decision: bool, all: bool) -> bool:
        if self.others is None:
            return decision
        return (decision and self.others) if all else (decision or self.others)


class Run:
    """Plays measured values to an alarm, one student update each, and notes the checkpoints it asks for."""

    def __init__(self, alarm: CollapseAlarm, strategy: Strategy | None = None) -> None:
        self.alarm, self.saved, self.step = alarm, [], 0
        self.trainer: Any = SimpleNamespace(
            strategy=strategy or Strategy(), save_checkpoint=lambda path: self.saved.append(self.step)
        )

    def see(self, *values: float | None) -> None:
        for value in values:
            stage: Any = SimpleNamespace(health=None if value is None else {"lag": torch.tensor(value)})
            self.alarm.on_train_batch_end(self.trainer, stage, None, SimpleNamespace(step=self.step), 0)
            self.step += 1


def alarm(tmp_path: Path, *, stop_after_updates: int = 3, save_every_updates: int = 2) -> CollapseAlarm:
    return CollapseAlarm(
        folder=str(tmp_path),
        limits={"lag": (0.5, 2.0)},
        stop_after_updates=stop_after_updates,
        save_every_updates=save_every_updates,
    )


def test_only_an_unbroken_row_of_bad_updates_is_a_collapse(tmp_path: Path):
    made = Run(alarm(tmp_path))
    made.see(1.0, 3.0, None, 3.0, 1.0, 0.1, 3.0, None)  # never three in a row
    with pytest.raises(CollapseError, match=r"at step 8: lag=2.5 must be in \[0.5, 2\], for 3 student updates"):
        made.see(2.5)


def test_what_is_not_finite_is_outside_every_limit(tmp_path: Path):
    with pytest.raises(CollapseError, match=r"lag=nan.*No state was good"):
        Run(alarm(tmp_path, stop_after_updates=1)).see(math.nan)


def test_only_healthy_states_are_kept(tmp_path: Path):
    """Every second student update, but none while a measure is outside."""
    made = Run(alarm(tmp_path, save_every_updates=2))
    made.see(1.0, None, 1.0, 3.0, 3.0, 1.0, 1.0)
    assert made.saved == [2, 6]


def test_another_ranks_collapse_stops_this_one_too(tmp_path: Path):
    with pytest.raises(CollapseError, match="another rank broke a limit"):
        Run(alarm(tmp_path), Strategy(others=True)).see(1.0)


def test_a_resumed_alarm_goes_on_counting(tmp_path: Path):
    first = alarm(tmp_path)
    Run(first).see(1.0, 1.0, 3.0, 3.0)
    resumed = alarm(tmp_path)
    resumed.load_state_dict(first.state_dict())
    with pytest.raises(CollapseError, match="The last good state, of step 1"):
        Run(resumed).see(3.0)


def test_a_limit_of_what_is_not_measured_is_an_error(tmp_path: Path):
    made = CollapseAlarm(folder=str(tmp_path), limits={"lagg": (0.5, 2.0)}, stop_after_updates=1, save_every_updates=1)
    with pytest.raises(ValueError, match=r"limits=\['lagg'\] must be among \['lag'\]"):
        Run(made).see(1.0)


@pytest.mark.parametrize("wrong", ["stop_after_updates", "save_every_updates"])
def test_counts_below_one_are_errors(tmp_path: Path, wrong: str):
    with pytest.raises(ValueError, match=rf"alarm\.{wrong}=0 must be >= 1"):
        alarm(tmp_path, **{wrong: 0})
