"""Stage 1: the bidirectional model, which sees the whole clip. It is the teacher of all later stages."""

from functools import partial
from typing import Any

from jaxtyping import Float
from torch import Tensor

from data.batch import LatentBatch, latent_data
from gwm.autoencoders.protocol import AutoencoderConfig
from gwm.clip import clip_velocity
from gwm.config import AudioConfig
from gwm.dit import DiT
from gwm.resolution import Resolution
from gwm.schedule import sigma_steps
from train.flow import clean_weight, motion_map, velocity_loss
from train.learner import Learner
from train.networks import Base, load_dit
from train.noise import clip_sigmas, gaussian_like, sample_generators, without_some
from train.stage import DiTStage


class BidirectionalStage(DiTStage):
    """Flow matching with one noise level per clip.

    Source: Lipman et al. 2023, arXiv:2210.02747; Esser et al. 2024, arXiv:2403.03206 (shifted noise levels).
    """

    def __init__(
        self,
        *,
        vae: str | AutoencoderConfig,
        speech: str,
        audio: AudioConfig,
        model: dict[str, Any],
        resolution: Resolution,
        num_frames: int,
        num_steps: int,
        shift: float,
        motion_weight: float,
        network: partial[Learner[DiT]],
        seed: int,
        init: str | None = None,
    ) -> None:
        """init: weights of an earlier run, or a published checkpoint; None: a model from nothing."""
        super().__init__()
        base = Base(model=model, vae=vae, speech=speech, audio=audio, resolution=resolution, num_frames=num_frames)
        dit, contract = base.random() if init is None else load_dit(init, stage="bidirectional", base=base)
        self.contract = contract.replace(sigmas=tuple(sigma_steps(num_steps, shift=shift)))
        self.network = network(dit)
        self.shift, self.motion_weight, self.seed = shift, motion_weight, seed

    def setup(self, stage: str) -> None:
        self.weight = motion_map(latent_data(self).motion, self.motion_weight)

    def training_step(self, batch: LatentBatch, batch_idx: int) -> Float[Tensor, ""]:
        generators = sample_generators(self.seed, batch, self.device)
        sigma = clip_sigmas(batch.x0, shift=self.shift, generator=generators)
        noise = gaussian_like(batch.x0, generators)
        condition = without_some(batch.condition, batch.x0, config=self.contract.dit, generator=generators)
        velocity = clip_velocity(
            self.network.model, batch.clip.noised(noise, sigma).under(condition), self.contract.pattern
        )
        levels = clean_weight(sigma, self.contract.dit)
        loss = velocity_loss(velocity, batch.x0, noise, self.weight.to(self.device), level_weight=levels)
        self.log("train/loss", loss)
        return loss
