"""Stage 2: the bidirectional model becomes causal, by flow matching on data; it still takes many steps."""

from collections.abc import Sequence
from functools import partial
from typing import Literal, get_args

import torch
from jaxtyping import Float
from torch import Tensor

from data.batch import LatentBatch, latent_data
from gwm.chunks import ChunkPattern
from gwm.clip import clip_velocity, teacher_forced_velocity
from gwm.dit import DiT
from gwm.schedule import sigma_steps
from train.flow import clean_weight, motion_map, velocity_loss
from train.learner import Learner
from train.networks import Base, load_dit
from train.noise import (
    Corruption,
    chunk_sigmas,
    corrupt,
    gaussian_like,
    sample_generators,
    step_generator,
    without_some,
)
from train.stage import DiTStage

Forcing = Literal["teacher", "diffusion"]


class CausalStage(DiTStage):
    """Flow matching in which every chunk has its own noise level and sees chunks before it: clean ones (teacher
    forcing), or as noised as they are (diffusion forcing, at half the tokens).

    `pattern` is what will be served. Every step draws it or one of `patterns`, equally often: one checkpoint then
    serves all of these windows, sinks and chunk lengths.
    `history_*` worsen the clean past of teacher forcing, see `train.noise.Corruption`.
    Source: Huang et al. 2025, arXiv:2506.08009, Sec. 3.1; Chen et al. 2024, arXiv:2407.01392 (diffusion forcing);
    history noise as in Valevski et al. 2024, arXiv:2408.14837.

    Raises:
        ValueError: an unknown `forcing`, or patterns whose first chunks differ.
    """

    def __init__(
        self,
        *,
        init: str,
        pattern: ChunkPattern,
        num_steps: int,
        shift: float,
        motion_weight: float,
        history_noise: float,
        network: partial[Learner[DiT]],
        seed: int,
        history_exposure: float = 0.0,
        history_blur: float = 0.0,
        forcing: Forcing = "teacher",
        patterns: Sequence[ChunkPattern] = (),
        base: Base | None = None,
    ) -> None:
        """base: what `init` leaves open when it is a published checkpoint."""
        super().__init__()
        if forcing not in get_args(Forcing):
            raise ValueError(f"forcing={forcing!r} must be one of {get_args(Forcing)}.")
        for other in patterns:
            if other.first_frames != pattern.first_frames:
                raise ValueError(f"patterns has {other}, must have first_frames={pattern.first_frames} as pattern has.")
        model, contract = load_dit(init, stage="bidirectional", base=base)
        self.contract = contract.replace(pattern=pattern, sigmas=tuple(sigma_steps(num_steps, shift=shift)))
        self.network = network(model)
        self.shift, self.motion_weight = shift, motion_weight
        self.history = Corruption(noise=history_noise, exposure=history_exposure, blur=history_blur)
        self.seed = seed
        self.forcing: Forcing = forcing
        self.patterns = [pattern, *patterns]

    def setup(self, stage: str) -> None:
        self.weight = motion_map(latent_data(self).motion, self.motion_weight)

    def drawn_pattern(self, step: int) -> ChunkPattern:
        """The pattern of a step, the same for all samples on all devices: they share a mask."""
        generator = step_generator(self.seed, step, torch.device("cpu"))
        return self.patterns[int(torch.randint(len(self.patterns), (), generator=generator))]

    def training_step(self, batch: LatentBatch, batch_idx: int) -> Float[Tensor, ""]:
        generators = sample_generators(self.seed, batch, self.device)
        pattern = self.drawn_pattern(batch.step)
        sigma = chunk_sigmas(batch.x0, pattern, shift=self.shift, generator=generators)
        noise = gaussian_like(batch.x0, generators)
        velocity = clip_velocity
        if self.forcing == "teacher":
            velocity = partial(teacher_forced_velocity, history=corrupt(batch.x0, self.history, generators))
        condition = without_some(batch.condition, batch.x0, config=self.contract.dit, generator=generators)
        predicted = velocity(self.network.model, batch.clip.noised(noise, sigma).under(condition), pattern)
        levels = clean_weight(sigma, self.contract.dit)
        loss = velocity_loss(predicted, batch.x0, noise, self.weight.to(self.device), level_weight=levels)
        self.log("train/loss", loss)
        return loss
