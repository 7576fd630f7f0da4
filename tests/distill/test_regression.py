from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from data.batch import LatentBatch
from distill.regression import TELLING_SHARE, RegressionStage, voice_map
from distill.student_forcing import student_rollout
from gwm.condition.inputs import Condition
from gwm.dit import Prediction
from gwm.weights import save_weights
from tests.tiny import DIT, SIZE, contract, learning, speech, tiny_dit
from train.network import dit_facts
from train.noise import sample_generators
from train.trainee import Trainee

FRAMES, SEED = 4, 3
RULES = contract(FRAMES, sigmas=(1.0,), noise="held")


def batch(rows: int = SIZE) -> LatentBatch:
    heard = speech(FRAMES)
    assert heard.agent is not None and heard.user is not None
    x0, reference = (torch.randn(2, frames, DIT.in_channels, rows, SIZE) for frames in (FRAMES, 1))
    return LatentBatch(x0=x0, reference=reference, agent=heard.agent, user=heard.user, step=7)


class Known(nn.Module):
    """Predicts from noise the clean clip it sees beside it, off by as much as it is told or not told the voice."""

    config = DIT

    def __init__(self, told: Tensor, untold: Tensor) -> None:
        super().__init__()
        self.told, self.untold = told, untold

    def forward(self, x: Tensor, sigma: Tensor, condition: Condition, **place: Any) -> Prediction:
        assert condition.agent is not None
        off = self.told if condition.agent.any() else self.untold
        clean = torch.cat([x[:, :1], x[:, 1 : 1 + FRAMES], x[:, 1 : 1 + FRAMES]], dim=1)
        return Prediction(x - clean - off, ())


def test_the_map_is_where_the_voice_explains_the_picture():
    """Cells of equal error without the voice: with it none is left of the first rows', half of what would do of the
    last ones', and in between it makes things worse."""
    untold, told = torch.ones(12, 4), torch.ones(12, 4)
    told[:3] = 0
    told[3:8] = 1.2
    told[8:] = (1 - TELLING_SHARE / 2) ** 0.5
    model: Any = Known(told, untold)
    found = voice_map(model, RULES, [batch(rows=12)], seed=0)
    assert torch.equal(found[:2], torch.ones(2, 4))
    torch.testing.assert_close(found[3], torch.full((4,), 0.4), rtol=1e-3, atol=0)  # 1 - (0 + 1.44 + 1.44) / 3 = 0.04
    assert torch.equal(found[4:7], torch.zeros(3, 4))
    torch.testing.assert_close(found[9:], torch.full((3, 4), 0.5), rtol=1e-3, atol=0)


def stage(folder: Path) -> RegressionStage:
    """Whose student has moved away from what it started as."""
    save_weights(folder, tiny_dit().state_dict(), gate={}, **dit_facts(RULES))
    network: Any = partial(Trainee, optimizer=torch.optim.SGD, schedule_steps=10, warmup_steps=1, ema_decay=0.9)
    made = RegressionStage(init=str(folder), teacher=str(folder), motion_weight=0.0, network=network, seed=SEED)
    made.weight = torch.linspace(0.5, 1.5, SIZE).expand(SIZE, SIZE)
    with torch.no_grad():
        for parameter in learning(made.network.model):
            parameter += 0.1 * torch.randn_like(parameter)
    return made


@pytest.mark.filterwarnings("ignore:You are trying to `self.log")
@torch.no_grad()
def test_streams_are_drawn_to_the_data_and_in_the_voices_cells_to_what_they_were(tmp_path: Path):
    made, data = stage(tmp_path), batch()
    made.voiced = torch.tensor([0.0, 0.25, 1.0, 1.0])[:, None].expand(SIZE, SIZE)
    now, before = (
        student_rollout(
            model, RULES, reference=data.reference, condition=data.condition, leave_at=0, gradient="none",
            generator=sample_generators(SEED, data, torch.device("cpu")), num_frames=FRAMES,
        ).x0
        for model in (made.network.model, made.before)
    )  # fmt: skip
    target = before.clone()
    target[..., 0, :] = data.x0[..., 0, :]
    target[..., 1, :] = 0.75 * data.x0[..., 1, :] + 0.25 * before[..., 1, :]
    expected = (made.weight * (now - target).square()).mean()
    torch.testing.assert_close(made.training_step(data, 0), expected, rtol=1e-5, atol=0)


@pytest.mark.filterwarnings("ignore:You are trying to `self.log")
def test_only_the_student_learns(tmp_path: Path):
    made = stage(tmp_path)
    made.voiced = torch.full((SIZE, SIZE), 0.5)
    made.training_step(batch(), 0).backward()
    assert all(p.grad is not None for p in learning(made.network.model))
    assert all(p.grad is None for p in made.before.parameters())
