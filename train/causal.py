"""Stage 2: the bidirectional model learns to see only the past, on data, in many steps."""

from functools import partial
from typing import Any

import lightning as L
from jaxtyping import Float
from torch import Tensor, nn

from data.batch import LatentBatch, LatentData, latent_data
from data.shards import Clip
from gwm.chunks import ChunkPattern
from gwm.clip import teacher_forced_velocity
from gwm.dit import DiT
from gwm.schedule import add_noise, sigma_steps
from train.flow import clean_weight, motion_map, velocity_loss
from train.generate import Played, play_clips
from train.network import dit_facts, load_dit
from train.noise import chunk_sigmas, corrupt, dropped, gaussian_like, step_generator
from train.trainee import Trainee


class CausalStage(L.LightningModule):
    """Flow matching under teacher forcing: every chunk has its own noise level and sees the clean chunks before it.

    Source: Huang et al. 2025, arXiv:2506.08009, Sec. 3.1; history noise as in Valevski et al. 2024, arXiv:2408.14837.
    """

    hears = True

    def __init__(
        self,
        *,
        init: str,
        pattern: ChunkPattern,
        num_steps: int,
        shift: float,
        motion_weight: float,
        drop_agent: float,
        history_noise: float,
        network: partial[Trainee[DiT]],
        seed: int,
    ) -> None:
        super().__init__()
        model, contract = load_dit(init, stage="bidirectional")
        self.contract = contract.replace(pattern=pattern, sigmas=tuple(sigma_steps(num_steps, shift=shift)))
        self.network = network(model)
        self.shift, self.motion_weight, self.drop_agent = shift, motion_weight, drop_agent
        self.history_noise, self.seed = history_noise, seed

    def setup(self, stage: str) -> None:
        self.weight = motion_map(latent_data(self).motion, self.motion_weight)

    def training_step(self, batch: LatentBatch, batch_idx: int) -> Float[Tensor, ""]:
        generator = step_generator(self.seed, batch.step, self.device)
        sigma = chunk_sigmas(batch.x0, self.contract.pattern, shift=self.shift, generator=generator)
        noise = gaussian_like(batch.x0, generator)
        velocity = teacher_forced_velocity(
            self.network.model,
            add_noise(batch.x0, noise, sigma),
            sigma,
            history=corrupt(batch.x0, self.history_noise, generator),
            reference=batch.reference,
            condition=batch.condition.without_agent(dropped(len(sigma), self.drop_agent, generator)),
            pattern=self.contract.pattern,
        )
        levels = clean_weight(sigma, self.contract.dit)
        loss = velocity_loss(velocity, batch.x0, noise, self.weight.to(self.device), level_weight=levels)
        self.log("train/loss", loss)
        return loss

    def configure_optimizers(self):  # Lightning's own union of a dozen types
        return self.network.optimizers()

    def weights(self) -> tuple[nn.Module, dict[str, Any]]:
        return self.network.trained, dit_facts(self.contract)

    def decode(self, model: DiT, clips: list[Clip], data: LatentData, **how: Any) -> Played:
        return play_clips(model, self.contract, data.vae, clips, seed=self.seed, **how)
