from functools import partial
from pathlib import Path
from typing import Any

import lightning as L
import pytest
import torch

from distill.ode import ODEStage, PairData, picked_states
from distill.ode_pairs import read_shard, shard_name
from gwm.clip import NoisedClip, teacher_forced_velocity
from tests.distill.pairs import PATTERN, SIGMAS, save_teacher, write
from tests.tiny import AUDIO, RESOLUTION, tiny_vae
from train.checkpoint import AtomicCheckpointIO
from train.learner import Learner
from train.noise import sample_generators

SEED = 4


def test_every_chunk_gets_one_of_its_own_states_and_that_states_level():
    """State k of frame f of sample b holds 100 b + 10 k + f."""
    b, k, f = torch.meshgrid(torch.arange(64), torch.arange(3), torch.arange(4), indexing="ij")
    states = (100 * b + 10 * k + f).float()[..., None, None, None]
    x, sigma = picked_states(states, tuple(SIGMAS), chunk_frames=2, generator=torch.Generator().manual_seed(0))
    level = (x.flatten(2)[..., 0] % 100 // 10).long()
    assert torch.equal(x.flatten(2)[..., 0], 100.0 * torch.arange(64)[:, None] + 10 * level + torch.arange(4))
    torch.testing.assert_close(sigma, torch.tensor(SIGMAS)[level])
    assert torch.equal(level[:, 0], level[:, 1]) and torch.equal(level[:, 2], level[:, 3])
    counts = torch.bincount(level[:, ::2].flatten(), minlength=3)
    assert (counts - 128 / 3).abs().max() < 5 * (128 * 2 / 9) ** 0.5
    assert not torch.equal(level[:, 0], level[:, 2])


def stage(teacher: str) -> ODEStage:
    torch.manual_seed(2)
    adam = partial(torch.optim.AdamW, lr=1e-2)
    network = partial(Learner, optimizer=adam, schedule_steps=8, warmup_steps=1, ema_decay=0.9)
    return ODEStage(init=teacher, sigmas=SIGMAS, history_noise=0.0, network=network, seed=SEED)


def pairs(folder: Path, **changes: Any) -> PairData:
    data = PairData(
        pairs=str(folder), sigmas=SIGMAS, shards=".", latents=".", vae=tiny_vae(), audio=AUDIO, resolution=RESOLUTION,
        num_frames=4, batch_size=2, seed=0,
    )  # fmt: skip
    data.setup("fit")
    return data


@pytest.mark.filterwarnings("ignore:You are trying to `self.log")
@torch.no_grad()
def test_loss_is_the_distance_of_x0_to_the_end_of_the_flow(tmp_path: Path):
    teacher = save_teacher(tmp_path / "teacher" / "weights")
    folder = write(tmp_path / "pairs", teacher)
    module, batch = stage(teacher), next(iter(pairs(folder).train_dataloader()))
    generator = sample_generators(SEED, batch.clips, torch.device("cpu"))
    x, sigma = picked_states(batch.states, tuple(SIGMAS), chunk_frames=2, generator=generator)
    noised = NoisedClip(x, sigma, batch.clips.reference, batch.clips.condition)
    velocity = teacher_forced_velocity(module.network.model, noised, PATTERN, history=batch.clips.x0)
    expected = (x - sigma[..., None, None, None] * velocity - batch.end).square().mean()
    torch.testing.assert_close(module.training_step(batch, 0), expected, rtol=1e-5, atol=0)


def test_a_batch_is_a_shard_drawn_by_its_step(tmp_path: Path):
    folder = write(tmp_path / "pairs", save_teacher(tmp_path / "teacher" / "weights"))
    ends = [read_shard(folder / shard_name(number))["end"] for number in range(3)]

    def drawn(first: int, count: int) -> list[int]:
        data = pairs(folder)
        data.next_step = first
        batches = iter(data.train_dataloader())
        found = [next(batches) for _ in range(count)]
        assert [batch.step for batch in found] == list(range(first, first + count))
        return [next(n for n, end in enumerate(ends) if torch.equal(end, batch.end)) for batch in found]

    order = drawn(0, 12)
    assert set(order) == {0, 1, 2}
    assert drawn(5, 7) == order[5:]


def test_a_resumed_run_equals_an_uninterrupted_one(tmp_path: Path):
    teacher = save_teacher(tmp_path / "teacher" / "weights")
    folder = write(tmp_path / "pairs", teacher)

    def run(max_steps: int, out: str, resume: Path | None = None) -> dict[str, torch.Tensor]:
        module = stage(teacher)
        trainer = L.Trainer(
            accelerator="cpu", max_steps=max_steps, max_epochs=-1, logger=False, enable_progress_bar=False,
            enable_model_summary=False, enable_checkpointing=False, plugins=[AtomicCheckpointIO()],
        )  # fmt: skip
        trainer.fit(module, pairs(folder), ckpt_path=resume, weights_only=False)
        trainer.save_checkpoint(tmp_path / out)
        return module.state_dict()

    expected = run(6, "whole.ckpt")
    run(3, "half.ckpt")
    made = run(6, "resumed.ckpt", resume=tmp_path / "half.ckpt")
    assert [name for name, value in made.items() if not torch.equal(value, expected[name])] == []
