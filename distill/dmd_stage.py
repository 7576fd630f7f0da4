"""DMD with student forcing: the student generates clips on its own past; teacher and critic score them.

Two stages are this class: `dmd` judges streams from their beginning, `long` windows of long ones.
"""

import logging
from collections.abc import Mapping
from functools import partial
from typing import Any

import lightning as L
import torch
from jaxtyping import Float
from lightning.pytorch.strategies import DeepSpeedStrategy
from torch import Tensor

from data.batch import LatentBatch, LatentData, latent_data
from distill.dmd import DMDRules, critic_loss, dmd_loss, scored_clip
from distill.gan import GAN
from distill.health import CollapseAlarm, Validation, clip_health, exit_shares, score_health
from distill.reward import Reward, reward_weights
from distill.roles import RoleAdapters, check_frozen, keep_out_of_checkpoints, load_roles
from distill.student_forcing import Exit, RolloutGradient, RolloutRequest, check_gradient, exit_step
from distill.windows import Window, Windows, WindowsOfPasses
from gwm.contract import CommitMode, NoiseMode, Solver
from gwm.dit import DiT
from train.checkpoint import gathered, moved
from train.learner import Learner
from train.noise import Generators, sample_generators, step_generator
from train.stage import DiTStage

log = logging.getLogger(__name__)


class DMDStage(DiTStage):
    """Two optimizers: the critic takes a step on the student's clips in every batch, the student in every
    `critic_per_student`-th. Teacher and critic are bidirectional and see the whole clip. A batch may be computed in
    several passes, whose gradients add up: both networks move after the last one.

    Source: Yin et al. 2023, arXiv:2311.18828; Huang et al. 2025, arXiv:2506.08009.
    """

    exit_counts: Tensor

    def __init__(
        self,
        *,
        init: str,
        teacher: str,
        sigmas: list[float],
        solver: Solver,
        context: CommitMode,
        noise: NoiseMode,
        exit: Exit,
        gradient: RolloutGradient,
        windows: Windows,
        rules: DMDRules,
        critic_per_student: int,
        max_steps: int,
        clip_norm: float,
        alarm: CollapseAlarm | None,
        student: partial[Learner[DiT]],
        critic: partial[Learner[DiT]],
        seed: int,
        gan: partial[GAN] | None = None,
        reward: Reward | None = None,
        validate_every: int = 0,
        lora: Mapping[str, Any] | None = None,
        offload: bool = False,
        sink_ahead_frames: int = 0,
    ) -> None:
        """max_steps: updates of both optimizers together, over which their learning rates decay. gan: a discriminator
        beside the critic. reward: what makes a clip weigh more. validate_every: student updates between two looks at
        held-out clips; 0: none before the end. lora: what `RoleAdapters` has, as plain values; None: every role has and
        trains weights of its own. offload: the teacher's weights stay on the host, see `distill.offload`.
        sink_ahead_frames: as in `Contract`, which the student is served by.
        """
        super().__init__()
        self.automatic_optimization = False
        check_gradient(gradient)
        student_steps, critic_steps = _divided_steps(max_steps, critic_per_student)
        roles = load_roles(
            init,
            teacher,
            student=partial(student, schedule_steps=student_steps),
            critic=partial(critic, schedule_steps=critic_steps),
            adapters=RoleAdapters.from_json(lora or {}),
            offloaded=offload,
        )
        self.contract = roles.contract.replace(
            sigmas=tuple(sigmas),
            context=context,
            solver=solver,
            noise=noise,
            distilled=True,
            sink_ahead_frames=sink_ahead_frames,
        )
        rules.guidance.check(self.contract.dit)
        self.network, self.teacher, self.critic = roles.student, roles.teacher, roles.critic
        self.frozen = roles.frozen
        keep_out_of_checkpoints(self, teacher="teacher", learners={"network": self.network, "critic": self.critic})
        self.gan = None
        if gan is not None:
            dit = self.contract.dit
            self.gan = gan(features=dit.dim, num_layers=dit.num_layers, schedule_steps=critic_steps)
        self.reward, self.validate_every = reward, validate_every
        self.exit: Exit = exit
        self.gradient: RolloutGradient = gradient
        self.windows, self.rules, self.alarm = WindowsOfPasses(windows), rules, alarm
        self.critic_per_student, self.clip_norm, self.seed = critic_per_student, clip_norm, seed
        self.register_buffer("exit_counts", torch.zeros(len(sigmas), dtype=torch.long))
        self.health: dict[str, Tensor] | None = None  # of this step's student update, for the alarm

    def setup(self, stage: str) -> None:
        data = latent_data(self)
        self.passes = data.split(self.trainer.world_size)[1]
        check_passes(self.passes, gan=self.gan is not None, reward=self.reward is not None)
        self.windows.check(self.contract, data.num_frames)
        if self.reward is not None:
            if not isinstance(data, LatentData):
                raise ValueError("stage.reward must be null on data without pictures: rewards look at decoded clips.")
            self.reward.check(self.contract, data.batch_size)

    def training_step(self, batch: LatentBatch, batch_idx: int) -> None:
        generators = sample_generators(self.seed, batch, self.device)
        optimizers: Any = self.optimizers()
        schedulers: Any = self.lr_schedulers()
        self.health = None
        if batch.step % self.critic_per_student == 0:
            window = self._window(batch, self.gradient, generators)
            self._update(self.student_loss(window, batch, generators), self.network, optimizers[0], schedulers[0])
        else:
            window = self._window(batch, "none", generators)
        self._update(self.critic_loss(window, generators), self.critic, optimizers[1], schedulers[1])
        if self.gan is not None:
            # Not Lightning's wrapper of it: `max_steps` goes on counting student and critic alone.
            head = self.optimizers(use_pl_optimizer=False)[2]  # type: ignore[index]
            self._update(self.head_loss(self.gan, window, batch, generators), self.gan.head, head, schedulers[2])
        if not latent_data(self).is_last_pass:
            self.health = None  # what watches looks once an update

    def student_loss(self, window: Window, batch: LatentBatch, generator: Generators) -> Float[Tensor, ""]:
        """DMD loss of the whole window at one noise level per sample."""
        chunk_frames = self.contract.pattern.chunk_frames
        scored = scored_clip(
            self.rules,
            window,
            teacher=self.teacher,
            critic=self.critic.model,
            chunk_frames=chunk_frames,
            generator=generator,
        )
        of_clip = clip_health(window.x0.detach(), batch.x0, chunk_frames=chunk_frames)
        self.health = score_health(scored) | of_clip | exit_shares(self.exit_counts)
        loss = dmd_loss(window.x0, self._weighted(scored.direction, window))
        if self.gan is not None:
            pull, found = self.gan.student_loss(
                self.rules, batch.clip, window, critic=self.critic.model, generator=generator
            )
            loss, self.health = loss + pull, self.health | found
        self.log("train/student_loss", loss)
        self.log_dict({f"health/{name}": value.float() for name, value in self.health.items()})
        return loss

    def critic_loss(self, window: Window, generator: Generators) -> Float[Tensor, ""]:
        """Flow matching on the student's clips."""
        clip = window.with_x0(window.x0.detach())
        loss = critic_loss(self.rules, clip, critic=self.critic.model, generator=generator)
        self.log("train/critic_loss", loss, prog_bar=True)
        return loss

    def head_loss(self, gan: GAN, window: Window, batch: LatentBatch, generator: Generators) -> Float[Tensor, ""]:
        """Loss of the discriminator, on data against the student's clips."""
        loss = gan.head_loss(self.rules, batch.clip, window, critic=self.critic.model, generator=generator)
        self.log("train/head_loss", loss)
        return loss

    def configure_optimizers(self):  # Lightning's own union of a dozen types
        networks = [self.network, self.critic] if self.gan is None else [self.network, self.critic, self.gan.head]
        return [network.optimizers() for network in networks]

    def configure_callbacks(self) -> list[L.Callback]:
        # What Lightning asks first: before processes meet and clips are encoded.
        if isinstance(self.trainer.strategy, DeepSpeedStrategy):
            raise ValueError(
                "trainer=deepspeed must be ddp or fsdp for DMD: a DeepSpeed engine owns one network, one optimizer; "
                "here student and critic step at different times. FSDP2 shards both: trainer=fsdp."
            )
        callbacks: list[L.Callback] = [] if self.alarm is None else [self.alarm]
        return callbacks + ([Validation(every=self.validate_every)] if self.validate_every else [])

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        host = torch.device("cpu")
        checkpoint |= {"windows": gathered(moved(self.windows.state_dict(), host)), "frozen": self.frozen}

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        check_frozen(checkpoint["frozen"], self.frozen)
        states, rank = checkpoint["windows"], self.trainer.global_rank
        if len(states) == self.trainer.world_size:
            self.windows.load_state_dict(moved(states[rank], self.trainer.strategy.root_device))
        elif any(states):  # no device has another's samples
            log.warning(
                "The checkpoint has the streams of %d devices, this run has %d: all streams begin anew.",
                *(len(states), self.trainer.world_size),
            )

    def _window(self, batch: LatentBatch, gradient: RolloutGradient, generator: Generators) -> Window:
        shared = step_generator(self.seed, batch.step, self.device)
        leave_at = exit_step(self.exit, len(self.contract.sigmas), shared)
        self.exit_counts[leave_at] += 1
        request = RolloutRequest(leave_at, gradient, generator)
        return self.windows(self.network.model, self.contract, batch, request, shared)

    def _weighted(self, direction: Float[Tensor, "b f c h w"], window: Window) -> Float[Tensor, "b f c h w"]:
        """The direction of each sample times the weight of its own reward."""
        if self.reward is None or self.health is None:
            return direction
        data = latent_data(self)
        assert isinstance(data, LatentData), type(data)  # `setup` has seen to it
        rewards = self.reward(window, self.contract, data.vae)
        everyones: Any = self.all_gather(rewards)
        weights = reward_weights(rewards, everyones.flatten(), self.reward.beta)
        self.health |= {"reward": everyones.nanmean(), "reward_weight_max": weights.max()}
        return weights[:, None, None, None, None] * direction

    def _update(self, loss: Tensor, network: Learner[Any], optimizer: Any, scheduler: Any) -> None:
        if latent_data(self).is_first_pass:
            optimizer.zero_grad()
        self.manual_backward(loss / self.passes)
        if not latent_data(self).is_last_pass:
            return
        if self.gan is not None and network is self.gan.head:
            # FSDP divides DiTs alone and leaves this to us; where DDP has averaged already, nothing changes.
            for parameter in network.model.parameters():
                parameter.grad = self.trainer.strategy.reduce(parameter.grad, reduce_op="mean")
        torch.nn.utils.clip_grad_norm_(network.model.parameters(), self.clip_norm)
        optimizer.step()
        scheduler.step()


def _divided_steps(max_steps: int, critic_per_student: int) -> tuple[int, int]:
    """Updates of the student and of the critic; the first of each round is the student's."""
    if critic_per_student < 1:
        raise ValueError(f"critic_per_student={critic_per_student} must be >= 1: critic updates per student update.")
    student_steps = -(-max_steps // (critic_per_student + 1))
    return student_steps, max_steps - student_steps


def check_passes(passes: int, *, gan: bool, reward: bool) -> None:
    """Refuse gradient accumulation for losses that need the whole batch in one pass.

    Raises:
        ValueError: something looks at the whole batch at once, or at a critic that has moved.
    """
    for name, used in (("gan", gan), ("reward", reward)):
        if used and passes > 1:
            raise ValueError(
                f"stage.{name} must be null where an update has {passes} passes, as it needs the whole batch in one. "
                "Raise device_batch, use more devices or lower data.batch_size."
            )
