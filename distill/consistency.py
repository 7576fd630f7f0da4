"""Stage 3: few-step initialisation by discrete consistency distillation under teacher forcing (TF-dCM)."""

from dataclasses import dataclass
from functools import partial

import torch
from jaxtyping import Float, Int
from torch import Tensor

from data.batch import LatentBatch, latent_data
from gwm.chunks import ChunkPattern
from gwm.clip import CleanClip, NoisedClip, teacher_forced_velocity
from gwm.dit import Denoiser, DiT
from gwm.guidance import Guidance, guided_velocity
from gwm.schedule import clean_estimate, sigma_steps
from train.flow import motion_map
from train.learner import Learner
from train.networks import load_dit
from train.noise import Corruption, Generators, corrupt, gaussian_like, sample_generators, uniform
from train.stage import DiTStage


def adjacent_sigmas(
    levels: Float[Tensor, "n"], index: Int[Tensor, "b f"]
) -> tuple[Float[Tensor, "b f"], Float[Tensor, "b f"]]:
    """The noise level at `index` and the next lower one; below the last level comes 0."""
    below = torch.cat([levels[1:], levels.new_zeros(1)])
    return levels[index], below[index]


@dataclass(frozen=True, kw_only=True)
class ConsistencyRules:
    """What the student is made consistent along: the teacher's noise levels and guidance, the clean past and the
    chunks."""

    levels: Float[Tensor, "n"]  # noise levels of the teacher's steps, falling, without 0
    guidance: Guidance  # of the teacher
    history: Corruption  # of the clean past
    pattern: ChunkPattern


def consistency_loss(
    rules: ConsistencyRules,
    clip: CleanClip,
    *,
    student: Denoiser,
    ema: Denoiser,
    teacher: Denoiser,
    weight: Float[Tensor, "*k h w"],
    generator: Generators,
) -> Float[Tensor, ""]:
    """Distance in x0 of the student to its EMA one Euler step of the causal teacher further down.

    Source: Song et al. 2023, arXiv:2303.01469, Algorithm 2; teacher-forced form as in arXiv:2606.25473.
    """
    levels = rules.levels.to(clip.x0)
    sigma, below = adjacent_sigmas(levels, _chunk_levels(clip.x0, rules.pattern, len(levels), generator))
    upper = clip.noised(gaussian_like(clip.x0, generator), sigma)
    history = corrupt(clip.x0, rules.history, generator)

    def predict(model: Denoiser, noised: NoisedClip) -> Tensor:
        return teacher_forced_velocity(model, noised, rules.pattern, history=history)

    with torch.no_grad():
        velocity = guided_velocity(lambda c: predict(teacher, upper.under(c)), clip.condition, rules.guidance)
        lower = upper.x + (below - sigma)[..., None, None, None] * velocity
        target = clean_estimate(lower, predict(ema, upper.at(lower, below)), below)
    predicted = clean_estimate(upper.x, predict(student, upper), sigma)
    return (weight * (predicted - target).square()).mean()


class ConsistencyStage(DiTStage):
    """One Euler step of the causal teacher must not change what the student predicts.

    Target: the student's EMA, one level lower, on the teacher's step. At level 0 the target is the
    teacher's step itself, so consistency starts from there and spreads upwards.
    """

    def __init__(
        self,
        *,
        init: str,
        sigmas: list[float],
        num_levels: int,
        shift: float,
        guidance: Guidance,
        motion_weight: float,
        history_noise: float,
        network: partial[Learner[DiT]],
        seed: int,
    ) -> None:
        super().__init__()
        self.teacher, contract = load_dit(init, stage="causal")
        self.teacher.eval().requires_grad_(False)
        guidance.check(contract.dit)
        self.contract = contract.replace(sigmas=tuple(sigmas), solver="renoise")
        model, _ = load_dit(init, stage="causal")
        self.network = network(model)
        self.network.update_ema()  # the target exists before the first step
        self.rules = ConsistencyRules(
            levels=torch.tensor(sigma_steps(num_levels, shift=shift)),
            guidance=guidance,
            history=Corruption(noise=history_noise),
            pattern=contract.pattern,
        )
        self.motion_weight, self.seed = motion_weight, seed

    def setup(self, stage: str) -> None:
        self.weight = motion_map(latent_data(self).motion, self.motion_weight)

    def training_step(self, batch: LatentBatch, batch_idx: int) -> Float[Tensor, ""]:
        loss = consistency_loss(
            self.rules,
            batch.clip,
            student=self.network.model,
            ema=self.network.ema_model,
            teacher=self.teacher,
            weight=self.weight.to(self.device),
            generator=sample_generators(self.seed, batch, self.device),
        )
        self.log("train/loss", loss)
        return loss


def _chunk_levels(
    x0: Float[Tensor, "b f c h w"], pattern: ChunkPattern, num_levels: int, generator: Generators
) -> Int[Tensor, "b f"]:
    num_chunks = x0.shape[1] // pattern.chunk_frames
    index = (num_levels * uniform((len(x0), num_chunks), generator, x0.device)).long()
    return index.repeat_interleave(pattern.chunk_frames, dim=1)
