"""Stage 3, alternative: the student learns the end of the causal teacher's ODE trajectory, from pairs made
beforehand."""

from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from data.batch import LatentBatch, LatentData
from distill.ode_pairs import pairs_batch, read_pairs_manifest, read_shard, shard_name
from gwm.clip import NoisedClip, teacher_forced_velocity
from gwm.dit import DiT
from gwm.schedule import clean_estimate
from train.learner import Learner
from train.networks import load_dit
from train.noise import Corruption, Generators, corrupt, sample_generators, uniform
from train.stage import DiTStage


@dataclass
class PairBatch:
    """Clips with the teacher's states at the student's noise levels and the ends of its flow."""

    clips: LatentBatch
    states: Float[Tensor, "b k f c h w"]
    end: Float[Tensor, "b f c h w"]

    @property
    def step(self) -> int:
        return self.clips.step


class _Shards(Dataset[PairBatch]):
    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def __getitem__(self, key: tuple[int, int, int]) -> PairBatch:
        step, _, number = key
        pairs = read_shard(self.folder / shard_name(number))
        states, end = pairs.pop("states"), pairs.pop("end")
        return PairBatch(pairs_batch(pairs, step=step), states, end)


class PairData(LatentData):
    """Pairs in place of clips: a batch is a shard, drawn from (seed, step). The gate still needs the clips' shards."""

    def __init__(self, *, pairs: str, sigmas: list[float], **clips: Any) -> None:
        super().__init__(**clips)
        self.pairs, self.sigmas = Path(pairs), sigmas

    def prepare_data(self) -> None:
        return None

    def setup(self, stage: str) -> None:
        self.manifest = read_pairs_manifest(self.pairs, sigmas=self.sigmas)

    def random_batch(self, count: int, stage: Any) -> PairBatch:
        clips = super().random_batch(count, stage)
        return PairBatch(clips, torch.stack([clips.x0] * len(self.sigmas), dim=1), clips.x0)

    def train_dataloader(self) -> DataLoader[Any]:
        self.batch_size = 1  # shards a step
        return self.loader(_Shards(self.pairs), self.manifest["num_shards"], lambda items: items[0])


class ODEStage(DiTStage):
    """Regression of x0 at one random kept level per chunk on the end of the teacher's trajectory.

    Source: Yin et al. 2025 (CausVid), arXiv:2412.07772, Sec. 4.3, with the causal teacher of Causal Forcing.
    """

    def __init__(
        self, *, init: str, sigmas: list[float], history_noise: float, network: partial[Learner[DiT]], seed: int
    ) -> None:
        super().__init__()
        model, contract = load_dit(init, stage="causal")
        self.contract = contract.replace(sigmas=tuple(sigmas), solver="renoise")
        self.network = network(model)
        self.history, self.seed = Corruption(noise=history_noise), seed

    def training_step(self, batch: PairBatch, batch_idx: int) -> Float[Tensor, ""]:
        generator = sample_generators(self.seed, batch.clips, self.device)
        x, sigma = picked_states(
            batch.states, self.contract.sigmas, chunk_frames=self.contract.pattern.chunk_frames, generator=generator
        )
        clips = batch.clips
        velocity = teacher_forced_velocity(
            self.network.model,
            NoisedClip(x, sigma, clips.reference, clips.condition),
            self.contract.pattern,
            history=corrupt(clips.x0, self.history, generator),
        )
        loss = (clean_estimate(x, velocity, sigma) - batch.end).square().mean()
        self.log("train/loss", loss)
        return loss


def picked_states(
    states: Float[Tensor, "b k f c h w"], sigmas: tuple[float, ...], *, chunk_frames: int, generator: Generators
) -> tuple[Float[Tensor, "b f c h w"], Float[Tensor, "b f"]]:
    """For every chunk of every clip one of the `k` kept states, drawn uniformly, and its noise level."""
    batch_size, num_levels, num_frames = states.shape[:3]
    shape = (batch_size, num_frames // chunk_frames)
    index = (num_levels * uniform(shape, generator, states.device)).long()
    index = index.repeat_interleave(chunk_frames, dim=1)
    x = states.gather(1, index[:, None, :, None, None, None].expand(-1, 1, *states.shape[2:]))[:, 0]
    return x, states.new_tensor(sigmas)[index]
