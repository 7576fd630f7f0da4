from functools import partial
from pathlib import Path

import pytest
import torch
from torch import Tensor

from data.batch import LatentBatch
from distill.consistency import ConsistencyStage, adjacent_sigmas
from gwm.chunks import ChunkPattern
from gwm.clip import NoisedClip, teacher_forced_velocity
from gwm.dit import DiT
from gwm.guidance import Guidance
from gwm.schedule import sigma_steps
from gwm.weights import save_weights
from tests.tiny import GRID, contract, latents, speech, tiny_dit, trainable
from train.learner import Learner
from train.networks import dit_facts
from train.noise import sample_generators

FRAMES, SEED, STEP, SHIFT = 6, 3, 7, 2.0
PATTERN = ChunkPattern(chunk_frames=3, window_chunks=3, sink_chunks=1, first_frames=1)


def test_the_last_level_steps_to_zero():
    levels = torch.tensor([1.0, 0.6, 0.3])
    sigma, below = adjacent_sigmas(levels, torch.tensor([[0, 1, 2]]))
    assert torch.equal(sigma, torch.tensor([[1.0, 0.6, 0.3]]))
    assert torch.equal(below, torch.tensor([[0.6, 0.3, 0.0]]))


def shaken(folder: Path, num_levels: int, guidance: float) -> ConsistencyStage:
    """A stage whose teacher, student and average are three different models."""
    rules = contract(FRAMES, pattern=PATTERN, solver="ode")
    save_weights(folder, tiny_dit().state_dict(), gate={}, **dit_facts(rules))
    network = partial(Learner, optimizer=torch.optim.SGD, schedule_steps=10, warmup_steps=1, ema_decay=0.9)
    stage = ConsistencyStage(
        init=str(folder), sigmas=[1.0, 0.5], num_levels=num_levels, shift=SHIFT, motion_weight=0.0,
        guidance=Guidance(agent=guidance), history_noise=0.0, network=network, seed=SEED,
    )  # fmt: skip
    stage.weight = torch.ones(GRID)
    with torch.no_grad():
        for parameter in [*stage.network.model.parameters(), *stage.network.ema_model.parameters()]:
            parameter += 0.1 * torch.randn_like(parameter)
    return stage


def batch() -> LatentBatch:
    heard = speech(FRAMES)
    assert heard["agent"] is not None and heard["user"] is not None
    return LatentBatch(x0=latents(FRAMES), reference=latents(1), conditions=heard.flat(), step=STEP)


@pytest.mark.filterwarnings("ignore:You are trying to `self.log")
@pytest.mark.parametrize("guidance", [1.0, 2.5])
@pytest.mark.parametrize("num_levels", [1, 4])
@torch.no_grad()
def test_loss_is_the_distance_to_the_average_on_the_teachers_step(tmp_path: Path, num_levels: int, guidance: float):
    """At the last level, the only one of a single level, the target is the teacher's Euler step to 0."""
    stage, data = shaken(tmp_path, num_levels, guidance), batch()
    levels = [*sigma_steps(num_levels, shift=SHIFT), 0.0]
    sources = sample_generators(SEED, data, torch.device("cpu"))
    drawn = torch.stack([torch.rand(2, generator=source) for source in sources])
    index = (num_levels * drawn).long().repeat_interleave(3, dim=1)
    sigma, below = (torch.tensor(levels)[index + up][..., None, None, None] for up in (0, 1))
    x = (1 - sigma) * data.x0 + sigma * torch.stack(
        [torch.randn(data.x0.shape[1:], generator=source) for source in sources]
    )

    def velocity(model: DiT, x: Tensor, level: Tensor, *, agent: bool = True) -> Tensor:
        heard = data.condition if agent else data.condition.dropped("agent")
        noised = NoisedClip(x, level[..., 0, 0, 0], data.reference, heard)
        return teacher_forced_velocity(model, noised, PATTERN, history=data.x0)

    teacher = velocity(stage.teacher, x, sigma)
    silent = velocity(stage.teacher, x, sigma, agent=False)
    lower = x + (below - sigma) * (silent + guidance * (teacher - silent))
    target = lower - below * velocity(stage.network.ema_model, lower, below)
    if num_levels == 1:
        torch.testing.assert_close(target, x - sigma * (silent + guidance * (teacher - silent)))
    x0 = x - sigma * velocity(stage.network.model, x, sigma)
    expected = (x0 - target).square().mean()
    torch.testing.assert_close(stage.training_step(data, 0), expected, rtol=1e-4, atol=1e-6)
    torch.testing.assert_close(stage.training_step(data, 0), stage.training_step(data, 0), rtol=0, atol=0)


def test_only_the_student_learns(tmp_path: Path):
    stage = shaken(tmp_path, 4, 1.0)
    stage.training_step(batch(), 0).backward()
    assert all(p.grad is not None for p in trainable(stage.network.model))
    assert all(p.grad is None for p in [*stage.teacher.parameters(), *stage.network.ema_model.parameters()])


def test_the_target_lags_behind_the_student_from_its_first_step_on(tmp_path: Path):
    """An average that begins with the student's first step would give its own prediction as the target of the next."""
    network = shaken(tmp_path, 4, 1.0).network
    network.update_ema()
    pairs = zip(network.model.parameters(), network.ema_model.parameters(), strict=True)
    assert not any(torch.equal(student, average) for student, average in pairs)
