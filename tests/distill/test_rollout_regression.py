from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch

from data.batch import LatentBatch
from distill.rollout_regression import RolloutRegressionStage
from distill.student_forcing import RolloutRequest, student_rollout
from gwm.weights import save_weights
from tests.tiny import DIT, GRID, contract, speech, tiny_dit, trainable
from train.learner import Learner
from train.networks import dit_header
from train.noise import sample_generators

FRAMES, SEED = 4, 3
FEW = contract(FRAMES, sigmas=(1.0, 0.5), solver="renoise")


def stage(folder: Path, rules: Any = FEW, **options: Any) -> RolloutRegressionStage:
    save_weights(folder, tiny_dit().state_dict(), dit_header(rules))
    network: Any = partial(Learner, optimizer=torch.optim.SGD, schedule_steps=10, warmup_steps=1, ema_decay=0.9)
    settings = {"sigmas": [1.0, 0.5], "exit": "last", "gradient": "detach", **options}
    return RolloutRegressionStage(init=str(folder), network=network, seed=SEED, **settings)


def batch() -> LatentBatch:
    x0, reference = (torch.randn(2, frames, DIT.in_channels, *GRID) for frames in (FRAMES, 1))
    return LatentBatch(x0=x0, reference=reference, conditions=speech(FRAMES).flat(), step=7)


@pytest.mark.filterwarnings("ignore:You are trying to `self.log")
@torch.no_grad()
@pytest.mark.parametrize(("exit", "leave_at"), [("last", 1), ("uniform", 0)])
def test_the_loss_is_how_far_the_students_own_stream_is_from_the_data(tmp_path: Path, exit: str, leave_at: int):
    """The stream is made on its own past: on the data's it would be another."""
    made, data = stage(tmp_path, exit=exit), batch()
    data.step = 7 if exit == "last" else next(step for step in range(99) if made.leave_at(step) == leave_at)
    request = RolloutRequest(leave_at, "none", sample_generators(SEED, data, torch.device("cpu")))
    stream = student_rollout(made.network.model, FEW, request, data.reference, data.condition, FRAMES).x0
    torch.testing.assert_close(made.training_step(data, 0), (stream - data.x0).square().mean(), rtol=1e-6, atol=0)


@pytest.mark.filterwarnings("ignore:You are trying to `self.log")
def test_a_student_comes_nearer_to_the_data(tmp_path: Path):
    made, data = stage(tmp_path), batch()
    optimizer = torch.optim.Adam(trainable(made.network.model), lr=1e-2)
    losses = []
    for _ in range(8):
        loss = made.training_step(data, 0)
        losses.append(float(loss.detach()))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert losses[-1] < 0.8 * losses[0]


def test_it_needs_a_few_step_student_and_takes_the_steps_it_is_told(tmp_path: Path):
    assert stage(tmp_path, sigmas=[1.0]).contract.sigmas == (1.0,)
    with pytest.raises(ValueError, match="must be a few-step student: run stage=consistency first"):
        stage(tmp_path / "many", contract(FRAMES, sigmas=(1.0, 0.5), solver="ode"))
