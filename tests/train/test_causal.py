"""The causal stage's loss is the equation it names, under the pattern, forcing and history that were asked for."""

from pathlib import Path
from typing import Any

import pytest
import torch

from data.batch import LatentBatch
from gwm.chunks import ChunkPattern
from gwm.clip import NoisedClip, clip_velocity
from gwm.schedule import add_noise
from tests.tiny import DIT, GRID
from tests.train.test_resume import network, weights
from train.causal import CausalStage
from train.noise import chunk_sigmas, gaussian_like, sample_generators

CPU = torch.device("cpu")
SERVED = ChunkPattern(chunk_frames=1, window_chunks=3, sink_chunks=1, first_frames=1)
OTHERS = [
    ChunkPattern(chunk_frames=1, window_chunks=5, sink_chunks=2, first_frames=1),
    ChunkPattern(chunk_frames=3, window_chunks=3, sink_chunks=1, first_frames=1),
]


def stage(folder: Path, **changes: Any) -> CausalStage:
    how: dict[str, Any] = {
        "init": weights(folder)["bidirectional"], "pattern": SERVED, "num_steps": 2, "shift": 2.0, "motion_weight": 0.0,
        "history_noise": 0.0, "network": network(), "seed": 0,
    }  # fmt: skip
    made = CausalStage(**(how | changes))
    made.weight = torch.ones(GRID)
    return made


def batch(*, step: int = 0, first_slot: int = 0, count: int = 4) -> LatentBatch:
    """Samples that are a function of their slot."""
    rows = []
    for slot in range(first_slot, first_slot + count):
        source = torch.Generator().manual_seed(slot)
        shapes = {"x0": (3, DIT.in_channels, *GRID), "reference": (1, DIT.in_channels, *GRID)}
        shapes |= dict.fromkeys(("frame.agent", "frame.user"), (3, DIT.speech_width))
        rows.append({name: torch.randn(shape, generator=source) for name, shape in shapes.items()})
    x0, reference, agent, user = (torch.stack([row[name] for row in rows]) for name in rows[0])
    return LatentBatch(x0, reference, {"frame.agent": agent, "frame.user": user}, step=step, first_slot=first_slot)


@pytest.mark.filterwarnings("ignore:You are trying to `self.log")
def test_diffusion_forcing_sees_a_past_as_noised_as_it_is(tmp_path: Path):
    made, data = stage(tmp_path, forcing="diffusion", history_noise=0.5), batch()
    generators = sample_generators(0, data, CPU)
    sigma = chunk_sigmas(data.x0, SERVED, shift=2.0, generator=generators)
    noise = gaussian_like(data.x0, generators)
    x = add_noise(data.x0, noise, sigma)
    velocity = clip_velocity(made.network.model, NoisedClip(x, sigma, data.reference, data.condition), SERVED)
    expected = (velocity - (noise - data.x0)).square().mean()
    torch.testing.assert_close(made.training_step(data, 0), expected)
    assert (made.training_step(data, 0) - stage(tmp_path).training_step(data, 0)).abs() > 1e-3


def test_every_pattern_is_drawn_equally_often_and_alike_on_every_device(tmp_path: Path):
    made, another = stage(tmp_path, patterns=OTHERS), stage(tmp_path, patterns=OTHERS)
    drawn = [made.drawn_pattern(step) for step in range(600)]
    assert all(160 < drawn.count(pattern) < 240 for pattern in [SERVED, *OTHERS])
    assert drawn == [another.drawn_pattern(step) for step in range(600)]
    assert made.contract.pattern == SERVED


@pytest.mark.filterwarnings("ignore:You are trying to `self.log")
def test_a_drawn_pattern_decides_what_is_seen(tmp_path: Path):
    """The loss of a step is that of a stage which serves the step's pattern."""
    made = stage(tmp_path, patterns=OTHERS)
    for pattern in OTHERS:
        step = next(step for step in range(100) if made.drawn_pattern(step) == pattern)
        alone = stage(tmp_path, pattern=pattern)
        torch.testing.assert_close(made.training_step(batch(step=step), 0), alone.training_step(batch(step=step), 0))


@pytest.mark.filterwarnings("ignore:You are trying to `self.log")
@pytest.mark.parametrize("changes", [{"history_noise": 0.5}, {"history_exposure": 0.5}, {"history_blur": 1.0}], ids=str)
def test_a_worse_history_changes_the_loss(tmp_path: Path, changes: dict[str, float]):
    clean, worse = stage(tmp_path), stage(tmp_path, **changes)
    assert (clean.training_step(batch(), 0) - worse.training_step(batch(), 0)).abs() > 1e-5


@pytest.mark.filterwarnings("ignore:You are trying to `self.log")
@pytest.mark.parametrize("forcing", ["teacher", "diffusion"])
def test_a_batch_may_be_divided_as_devices_allow(tmp_path: Path, forcing: str):
    """The mean of the parts' losses is the whole batch's loss: each sample brings its own randomness."""
    made = stage(tmp_path, forcing=forcing, history_noise=0.3, history_exposure=0.2, patterns=OTHERS)
    whole = made.training_step(batch(), 0)
    for parts in ([(0, 2), (2, 2)], [(0, 1), (1, 1), (2, 1), (3, 1)]):
        losses = [made.training_step(batch(first_slot=first, count=count), 0) for first, count in parts]
        torch.testing.assert_close(torch.stack(losses).mean(), whole)


def test_what_cannot_be_is_refused(tmp_path: Path, unchecked: None):
    with pytest.raises(ValueError, match=r"forcing='student' must be one of"):
        stage(tmp_path, forcing="student")
    with pytest.raises(ValueError, match=r"must have first_frames=1"):
        stage(tmp_path, patterns=[ChunkPattern(chunk_frames=1, window_chunks=3, sink_chunks=1, first_frames=0)])
