"""Stage 4b: where the voice decides nothing, the student's streams return to the data.

Distribution matching gives every patch detail of its own. Where nothing that the model is told decides it, neighbours
disagree, and the picture breaks into blocks; there the mean of the data is better, and one step can learn it: by
regression, on the student's own past. Where the voice explains what happens the student stays what it is, since a mean
hardly opens its mouth.
"""

import copy
from collections.abc import Iterable
from functools import partial

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from data.batch import LatentBatch, LatentClips, latent_batch, latent_data
from distill.student_forcing import RolloutGradient, student_rollout
from gwm.clip import teacher_forced_velocity
from gwm.condition.inputs import Condition
from gwm.contract import Contract
from gwm.dit import Denoiser, DiT
from gwm.schedule import clean_estimate
from train.flow import motion_map
from train.network import load_dit
from train.noise import gaussian_like, sample_generators, step_generator
from train.stage import DiTStage
from train.trainee import Trainee

MAP_CLIPS = 64  # crops of as many clips: the lips' cells already stand out in 16
TELLING_SHARE = 0.1  # of a cell's variance; cells of which the voice explains more stay wholly as they are


@torch.no_grad()
def voice_map(
    model: Denoiser, contract: Contract, batches: Iterable[LatentBatch], *, seed: int
) -> Float[Tensor, "h w"]:
    """1 where the voice explains at least TELLING_SHARE of what the model cannot know without it, 0 where nothing.

    The share is 1 - error(voice) / error(no voice) of x0 predicted from noise and the clean past, each error averaged
    over 3x3 cells.
    """
    told, untold = torch.zeros(()), torch.zeros(())
    for batch in batches:
        noise = gaussian_like(batch.x0, step_generator(seed, batch.step, batch.x0.device))
        told = told + _error(model, contract, batch, noise, batch.condition)
        untold = untold + _error(model, contract, batch, noise, batch.condition.without_agent())
    share = 1 - _smooth(told) / _smooth(untold)
    return (share / TELLING_SHARE).clamp(0, 1)


def _error(model: Denoiser, contract: Contract, batch: LatentBatch, noise: Tensor, condition: Condition) -> Tensor:
    sigma = noise.new_ones(noise.shape[:2])
    told = {"reference": batch.reference, "condition": condition}
    velocity = teacher_forced_velocity(model, noise, sigma, history=batch.x0, pattern=contract.pattern, **told)
    return (clean_estimate(noise, velocity, sigma) - batch.x0).square().mean(dim=(0, 1, 2))


def _smooth(cells: Float[Tensor, "h w"]) -> Float[Tensor, "h w"]:
    return F.avg_pool2d(cells[None], 3, stride=1, padding=1, count_include_pad=False)[0]


class RegressionStage(DiTStage):
    """Regression of the student's streams on clips of data; in the voice's cells on the streams it made before.

    `teacher` is a causal model before its distillation, which says where the voice counts: see `voice_map`.
    Source: Yin et al. 2023, arXiv:2311.18828, Sec. 3.3 (regression beside distribution matching, on a teacher's pairs
    there), on the student's own past as in Huang et al. 2025, arXiv:2506.08009.
    """

    voiced: Tensor

    def __init__(
        self, *, init: str, teacher: str, motion_weight: float, network: partial[Trainee[DiT]], seed: int
    ) -> None:
        super().__init__()
        model, self.contract = load_dit(init, stage="dmd")
        self.before = copy.deepcopy(model).eval().requires_grad_(False)
        self.network = network(model)
        self.teacher, self.motion_weight, self.seed = teacher, motion_weight, seed

    def setup(self, stage: str) -> None:
        data = latent_data(self)
        self.weight = motion_map(data.motion, self.motion_weight)
        teacher, contract = load_dit(self.teacher, stage="causal")
        crops = LatentClips(data.clips, num_frames=data.num_frames, seed=self.seed)
        batches = (latent_batch([crops[k, 0, k]]) for k in range(min(MAP_CLIPS, len(data.clips))))
        self.voiced = voice_map(teacher.eval(), contract, batches, seed=self.seed)

    def training_step(self, batch: LatentBatch, batch_idx: int) -> Float[Tensor, ""]:
        voiced = self.voiced.to(self.device)
        with torch.no_grad():
            before = self._stream(self.before, batch, "none")
        target = torch.lerp(batch.x0, before, voiced.expand_as(before))
        error = (self._stream(self.network.model, batch, "detach") - target).square()
        loss = (self.weight.to(self.device) * error).mean()
        self.log("train/loss", loss)
        return loss

    def _stream(self, model: DiT, batch: LatentBatch, gradient: RolloutGradient) -> Float[Tensor, "b f c h w"]:
        """The same noise for both models: what they make of it must be comparable."""
        return student_rollout(
            model,
            self.contract,
            reference=batch.reference,
            condition=batch.condition,
            leave_at=len(self.contract.sigmas) - 1,
            gradient=gradient,
            generator=sample_generators(self.seed, batch, self.device),
            num_frames=batch.x0.shape[1],
        ).x0
