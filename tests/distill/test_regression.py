import dataclasses
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from data.batch import LatentBatch
from distill.regression import TELLING_SHARE, RegressionStage, acting_map, voice_map
from distill.student_forcing import RolloutRequest, student_rollout
from gwm.condition.inputs import Conditions
from gwm.condition.spec import ConditionSpec
from gwm.contract import Contract
from gwm.dit import DiT, Prediction
from gwm.weights import save_weights
from tests.tiny import DIT, GRID, contract, speech, tiny_dit, trainable
from train.learner import Learner
from train.networks import dit_header, with_actions
from train.noise import sample_generators

FRAMES, SEED = 4, 3
RULES = contract(FRAMES, sigmas=(1.0,), noise="held")


def batch(rows: int = GRID[0]) -> LatentBatch:
    heard = speech(FRAMES)
    assert heard["agent"] is not None and heard["user"] is not None
    x0, reference = (torch.randn(2, frames, DIT.in_channels, rows, GRID[1]) for frames in (FRAMES, 1))
    return LatentBatch(x0=x0, reference=reference, conditions=heard.flat(), step=7)


class Known(nn.Module):
    """Predicts from noise the clean clip it sees beside it, off by as much as it is told or not told the voice."""

    config = DIT

    def __init__(self, told: Tensor, untold: Tensor) -> None:
        super().__init__()
        self.told, self.untold = told, untold

    def forward(self, x: Tensor, sigma: Tensor, condition: Conditions, **place: Any) -> Prediction:
        assert condition["agent"] is not None
        off = self.told if condition["agent"].any() else self.untold
        clean = torch.cat([x[:, :1], x[:, 1 : 1 + FRAMES], x[:, 1 : 1 + FRAMES]], dim=1)
        return Prediction(x - clean - off, ())


def test_the_map_is_where_the_voice_explains_the_picture():
    """Cells of equal error without the voice: with it none is left of the first rows', half of what would do of the
    last ones', and in between it makes things worse."""
    untold, told = torch.ones(12, GRID[1]), torch.ones(12, GRID[1])
    told[:3] = 0
    told[3:8] = 1.2
    told[8:] = (1 - TELLING_SHARE / 2) ** 0.5
    model: Any = Known(told, untold)
    found = voice_map(model, RULES, [batch(rows=12)], seed=0)
    assert torch.equal(found[:2], torch.ones(2, GRID[1]))
    fourth = torch.full((GRID[1],), 0.4)  # 1 - (0 + 1.44 + 1.44) / 3 = 0.04
    torch.testing.assert_close(found[3], fourth, rtol=1e-3, atol=0)
    assert torch.equal(found[4:7], torch.zeros(3, GRID[1]))
    torch.testing.assert_close(found[9:], torch.full((3, GRID[1]), 0.5), rtol=1e-3, atol=0)


def acting_batch() -> LatentBatch:
    """The second frame of the first clip and the last one of the second are acted."""
    action = torch.zeros(2, FRAMES, 4)
    action[0, 1], action[1, -1, 2] = 1, 0.5
    clips = batch()
    return dataclasses.replace(clips, conditions={**clips.conditions, "frame.action": action})


def test_actions_show_where_frames_with_one_are_told_less():
    """Errors of 1 in all cells, and of 3 in the last rows of frames with an action."""
    data = acting_batch()
    off = torch.ones(2, FRAMES, 1, *GRID)
    off[:, :, :, GRID[0] // 2 :][(data.condition["action"] != 0).any(-1)] = 3**0.5
    model: Any = Known(torch.cat([off[:, :1], off, off], dim=1), off)
    found = acting_map(model, RULES, [data], seed=0)
    torch.testing.assert_close(found[[0, -1]], torch.tensor([[0.0], [2.0]]).expand(2, GRID[1]), rtol=1e-4, atol=1e-4)


def test_a_map_of_actions_needs_frames_with_and_without_one():
    data, same = acting_batch(), torch.ones(1)
    model: Any = Known(same, same)
    with pytest.raises(ValueError, match="0 frames with an action and 8 without one must both be some"):
        still = {**data.conditions, "frame.action": torch.zeros(2, FRAMES, 4)}
        acting_map(model, RULES, [dataclasses.replace(data, conditions=still)], seed=0)
    with pytest.raises(ValueError, match="condition 'action' is not given"):
        acting_map(model, RULES, [batch()], seed=0)


def started(folder: Path, rules: Contract = RULES, **options: Any) -> RegressionStage:
    save_weights(folder, tiny_dit(rules.dit).state_dict(), dit_header(rules))
    network: Any = partial(Learner, optimizer=torch.optim.SGD, schedule_steps=10, warmup_steps=1, ema_decay=0.9)
    paths = {"init": str(folder), "teacher": str(folder)}
    return RegressionStage(**paths | options, motion_weight=0.0, network=network, seed=SEED)


def earlier(made: RegressionStage) -> DiT:
    """The student as it was."""
    assert made.before is not None
    return made.before


def stage(folder: Path, **options: Any) -> RegressionStage:
    """Whose student has moved away from what it started as."""
    made = started(folder, **options)
    made.weight = torch.linspace(0.5, 1.5, GRID[1]).expand(GRID)
    with torch.no_grad():
        for parameter in trainable(made.network.model):
            parameter += 0.1 * torch.randn_like(parameter)
    return made


@pytest.mark.filterwarnings("ignore:You are trying to `self.log")
@torch.no_grad()
def test_streams_are_drawn_to_the_data_and_in_the_voices_cells_to_what_they_were(tmp_path: Path):
    made, data = stage(tmp_path), batch()
    made.voiced = torch.tensor([0.0, 0.25, 1.0, 1.0])[:, None].expand(GRID)
    now, before = (
        student_rollout(
            model, RULES, RolloutRequest(0, "none", sample_generators(SEED, data, torch.device("cpu"))),
            data.reference, data.condition, FRAMES,
        ).x0
        for model in (made.network.model, earlier(made))
    )  # fmt: skip
    target = before.clone()
    target[..., 0, :] = data.x0[..., 0, :]
    target[..., 1, :] = 0.75 * data.x0[..., 1, :] + 0.25 * before[..., 1, :]
    expected = (made.weight * (now - target).square()).mean()
    torch.testing.assert_close(made.training_step(data, 0), expected, rtol=1e-5, atol=0)


@pytest.mark.filterwarnings("ignore:You are trying to `self.log")
@torch.no_grad()
def test_a_robots_streams_are_drawn_to_the_data_everywhere(tmp_path: Path):
    """A model with actions of its own world, and without a teacher that says where a voice counts."""
    hand = ConditionSpec(name="action", rate="frame", width=8, names=("right", "up"), kinds=("continuous",) * 2)
    rules = RULES.replace(dit=dataclasses.replace(DIT, conditions=(hand,)))
    made = started(tmp_path, rules, teacher=None)
    actions = {"frame.action": torch.rand(2, FRAMES, 8)}
    data: Any = dataclasses.replace(batch(), conditions=actions)
    made.weight = torch.linspace(0.5, 1.5, GRID[1]).expand(GRID)
    now = made._stream(made.network.model, data, "none")
    expected = (made.weight * (now - data.x0).square()).mean()
    torch.testing.assert_close(made.training_step(data, 0), expected, rtol=1e-5, atol=0)
    assert made.contract.dit.condition("action") == hand and made.before is None


def test_actions_need_a_teacher_that_says_where_they_show(tmp_path: Path):
    with pytest.raises(ValueError, match=r"actions=\['eyeBlinkLeft'\] must be \[\] where stage.teacher is null"):
        started(tmp_path, teacher=None, actions=["eyeBlinkLeft"])


@pytest.mark.filterwarnings("ignore:You are trying to `self.log")
def test_only_the_student_learns(tmp_path: Path):
    made = stage(tmp_path)
    made.voiced = torch.full(GRID, 0.5)
    made.training_step(batch(), 0).backward()
    assert all(p.grad is not None for p in trainable(made.network.model))
    assert all(p.grad is None for p in earlier(made).parameters())


@torch.no_grad()
def test_a_student_that_is_given_actions_is_at_first_what_it_was(tmp_path: Path):
    """Bit for bit, whatever is done: its new input says nothing yet, and all else was loaded."""
    made, data = started(tmp_path, actions=["eyeBlinkLeft"]), acting_batch()
    now, before = (
        made._stream(model, data, "none")
        for model in (made.network.model, earlier(made))
    )  # fmt: skip
    assert torch.equal(now, before)
    assert made.contract.dit.names("action") == ("eyeBlinkLeft",) and made.contract.dit.width("action") == 4
    assert "action" not in earlier(made).frame_embeddings
    assert earlier(made).state_dict().keys() < made.network.model.state_dict().keys()


def test_who_is_told_other_actions_already_is_refused(tmp_path: Path):
    model, rules = with_actions(tiny_dit(), RULES, ["eyeBlinkLeft"])
    assert with_actions(model, rules, ("eyeBlinkLeft",)) == (model, rules)
    for other in ([], ["jawOpen"]):
        with pytest.raises(ValueError, match=r"must be \['eyeBlinkLeft'\], those that the model has already"):
            with_actions(model, rules, other)


@pytest.mark.filterwarnings("ignore:You are trying to `self.log")
@torch.no_grad()
def test_frames_with_an_action_count_more_where_it_shows(tmp_path: Path):
    made, data = stage(tmp_path, actions=["eyeBlinkLeft"]), acting_batch()
    made.voiced, made.acting = torch.zeros(GRID), torch.linspace(9, 5, GRID[1]).expand(GRID)
    weight = made.weight.expand(2, FRAMES, 1, *GRID).clone()
    weight[0, 1], weight[1, -1] = made.acting, made.acting
    now = made._stream(made.network.model, data, "none")
    expected = (weight * (now - data.x0).square()).mean()
    torch.testing.assert_close(made.training_step(data, 0), expected, rtol=1e-5, atol=0)
