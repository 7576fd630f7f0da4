"""Stage 4: DMD with student forcing. The student learns on its own past what teacher and critic say of its clips."""

from functools import partial
from typing import Any

import lightning as L
import torch
from jaxtyping import Float
from torch import Tensor, nn

from data.batch import LatentBatch, LatentData
from data.shards import Clip
from distill.dmd import Normaliser, dmd_direction, dmd_loss
from distill.guidance import guided_velocity
from distill.student_forcing import Exit, RolloutGradient, StudentRollout, exit_step, student_rollout
from gwm.chunks import whole_clip
from gwm.clip import clip_velocity
from gwm.condition.inputs import Condition
from gwm.contract import CommitMode
from gwm.dit import DiT
from gwm.schedule import add_noise, clean_estimate, shift_sigma
from train.flow import clean_weight, velocity_loss
from train.generate import Played, play_clips
from train.network import dit_facts, load_dit
from train.noise import gaussian_like, step_generator
from train.trainee import Trainee


class DMDStage(L.LightningModule):
    """Two optimizers: the critic learns the student's clips at every step, the student moves at every
    `critic_per_student`-th. Teacher and critic are bidirectional and see the whole clip.

    Source: Yin et al. 2023, arXiv:2311.18828; Huang et al. 2025, arXiv:2506.08009.
    """

    hears = True

    def __init__(
        self,
        *,
        init: str,
        teacher: str,
        sigmas: list[float],
        context: CommitMode,
        exit: Exit,
        gradient: RolloutGradient,
        normaliser: Normaliser,
        normaliser_floor: float,
        guidance: float,
        shift: float,
        sigma_range: tuple[float, float],
        critic_per_student: int,
        clip_norm: float,
        student: partial[Trainee[DiT]],
        critic: partial[Trainee[DiT]],
        seed: int,
    ) -> None:
        super().__init__()
        if critic_per_student < 1:
            raise ValueError(
                f"critic_per_student={critic_per_student} must be >= 1: critic updates per student update."
            )
        self.automatic_optimization = False
        model, contract = load_dit(init, stage="consistency")
        self.contract = contract.replace(sigmas=tuple(sigmas), context=context, solver="renoise")
        self.network = student(model)
        self.teacher = load_dit(teacher, stage="bidirectional")[0].eval().requires_grad_(False)
        self.critic = critic(load_dit(teacher, stage="bidirectional")[0])
        self.exit: Exit = exit
        self.gradient: RolloutGradient = gradient
        self.normaliser: Normaliser = normaliser
        self.normaliser_floor = normaliser_floor
        self.guidance, self.shift, self.sigma_range = guidance, shift, tuple(sigma_range)
        self.critic_per_student, self.clip_norm, self.seed = critic_per_student, clip_norm, seed

    def training_step(self, batch: LatentBatch, batch_idx: int) -> None:
        generator = step_generator(self.seed, batch.step, self.device)
        optimizers: Any = self.optimizers()
        schedulers: Any = self.lr_schedulers()
        if batch.step % self.critic_per_student == 0:
            rollout = self._rollout(batch, self.gradient, generator)
            self._update(self.student_loss(rollout, batch, generator), self.network, optimizers[0], schedulers[0])
            exits = rollout
        else:
            exits = self._rollout(batch, "none", generator)
        loss = self.critic_loss(exits.x0.detach(), batch, generator)
        self._update(loss, self.critic, optimizers[1], schedulers[1])

    def student_loss(
        self, rollout: StudentRollout, batch: LatentBatch, generator: torch.Generator
    ) -> Float[Tensor, ""]:
        """DMD loss of the whole generated clip at one noise level per sample."""
        x0 = rollout.x0
        with torch.no_grad():
            sigma = self._sigma(len(x0), x0.shape[1], generator)
            x = add_noise(x0, gaussian_like(x0, generator), sigma)
            velocity = guided_velocity(
                lambda c: self._score(self.teacher, x, sigma, batch.reference, c), batch.condition, self.guidance
            )
            x0_teacher = clean_estimate(x, velocity, sigma)
            fake = self._score(self.critic.model, x, sigma, batch.reference, batch.condition)
            direction = dmd_direction(
                x0,
                x0_teacher,
                clean_estimate(x, fake, sigma),
                normaliser=self.normaliser,
                chunk_frames=self.contract.pattern.chunk_frames,
                floor=self.normaliser_floor,
            )
        loss = dmd_loss(x0, direction)
        self.log_dict(
            {
                "train/student_loss": loss,
                "train/dmd_norm": direction.square().mean().sqrt(),
                "train/exit_sigma": rollout.sigma_exit,
                "train/x0_std": x0.std(),
                "train/motion": x0.diff(dim=1).abs().mean(),
            }
        )
        return loss

    def critic_loss(
        self, x0: Float[Tensor, "b f c h w"], batch: LatentBatch, generator: torch.Generator
    ) -> Float[Tensor, ""]:
        """Flow matching on the student's clips."""
        sigma = self._sigma(len(x0), x0.shape[1], generator)
        noise = gaussian_like(x0, generator)
        x = add_noise(x0, noise, sigma)
        velocity = self._score(self.critic.model, x, sigma, batch.reference, batch.condition)
        everywhere, levels = x0.new_ones(x0.shape[-2:]), clean_weight(sigma, self.contract.dit)
        loss = velocity_loss(velocity, x0, noise, everywhere, level_weight=levels)
        self.log("train/critic_loss", loss, prog_bar=True)
        return loss

    def configure_optimizers(self):  # Lightning's own union of a dozen types
        return [self.network.optimizers(), self.critic.optimizers()]

    def weights(self) -> tuple[nn.Module, dict[str, Any]]:
        return self.network.trained, dit_facts(self.contract)

    def decode(self, model: DiT, clips: list[Clip], data: LatentData, **how: Any) -> Played:
        return play_clips(model, self.contract, data.vae, clips, seed=self.seed, text=data.text, **how)

    def _rollout(self, batch: LatentBatch, gradient: RolloutGradient, generator: torch.Generator) -> StudentRollout:
        return student_rollout(
            self.network.model,
            self.contract,
            reference=batch.reference,
            condition=batch.condition,
            leave_at=exit_step(self.exit, len(self.contract.sigmas), generator),
            gradient=gradient,
            generator=generator,
            num_frames=batch.x0.shape[1],
        )

    def _score(
        self, model: DiT, x: Tensor, sigma: Tensor, reference: Tensor, condition: Condition
    ) -> Float[Tensor, "b f c h w"]:
        pattern = whole_clip(x.shape[1] + 1, first_frames=1)
        return clip_velocity(model, x, sigma, reference=reference, condition=condition, pattern=pattern)

    def _sigma(self, batch_size: int, num_frames: int, generator: torch.Generator) -> Float[Tensor, "b f"]:
        low, high = self.sigma_range
        sigma = shift_sigma(torch.rand(batch_size, 1, generator=generator, device=self.device), self.shift)
        return sigma.clamp(low, high).expand(-1, num_frames)

    def _update(self, loss: Tensor, network: Trainee[DiT], optimizer: Any, scheduler: Any) -> None:
        optimizer.zero_grad()
        self.manual_backward(loss)
        torch.nn.utils.clip_grad_norm_(network.model.parameters(), self.clip_norm, error_if_nonfinite=True)
        optimizer.step()
        scheduler.step()
