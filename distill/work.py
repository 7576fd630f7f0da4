"""What one batch of the distillation stages computes; see `train.work`."""

from collections.abc import Mapping
from functools import partial
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from distill.dmd import DMDRules, score
from distill.gan import GAN
from distill.offload import offload as keep_on_host
from distill.roles import RoleAdapters
from distill.student_forcing import RolloutGradient, RolloutRequest, student_rollout
from gwm.clip import NoisedClip, teacher_forced_velocity
from gwm.condition.inputs import Conditions
from gwm.contract import Contract
from gwm.dit import DiT
from gwm.guidance import Guidance, guided_velocity
from gwm.lora import with_lora
from train.work import Pass, RandomClips, Work, clips_of


def consistency(contract: Contract, *, batch_size: int, num_frames: int, guidance: Guidance) -> Work:
    """As `distill.consistency`; the student's EMA, which gives the target, computes what the student does."""
    clips = clips_of(contract, batch_size, num_frames)
    student, teacher = DiT(contract.dit), DiT(contract.dit).requires_grad_(False)

    def predict(model: DiT, condition: Conditions) -> Tensor:
        return teacher_forced_velocity(model, clips.as_noised.under(condition), contract.pattern, history=clips.x0)

    def loss() -> Tensor:
        with torch.no_grad():
            guided_velocity(lambda condition: predict(teacher, condition), clips.condition, guidance)
            predict(student, clips.condition)
        return clips.loss(predict(student, clips.condition))

    return Work([student], [teacher], [Pass(loss)], clips.tokens)


def dmd(
    contract: Contract,
    *,
    batch_size: int,
    num_frames: int,
    sigmas: list[float],
    context: Literal["clean", "noisy"],
    gradient: RolloutGradient,
    rules: DMDRules,
    critic_per_student: int,
    lora: Mapping[str, Any] | None = None,
    offload: bool = False,
    gan: partial[GAN] | None = None,
) -> Work:
    """As `distill.dmd_stage`, with rollouts that leave at the last step: what a batch needs at most."""
    contract = contract.replace(sigmas=tuple(sigmas), context=context, solver="renoise")
    clips = clips_of(contract, batch_size, num_frames)
    adapters = RoleAdapters.from_json(lora or {})
    adapters.check(offloaded=offload)
    student, teacher, critic = _roles(contract, adapters)
    host_bytes = keep_on_host(teacher, [critic]) if offload else 0
    discriminator = None if gan is None else _Discriminator(gan, rules, clips, critic)

    def scored(model: DiT, x: Tensor, condition: Conditions) -> Tensor:
        return score(model, NoisedClip(x, clips.sigma, clips.reference, condition))

    def rollout(gradient: RolloutGradient) -> Tensor:
        request = RolloutRequest(len(sigmas) - 1, gradient, torch.Generator(clips.x0.device))
        return student_rollout(student, contract, request, clips.reference, clips.condition, num_frames).x0

    def student_loss() -> Tensor:
        x0 = rollout(gradient)
        with torch.no_grad():
            guided_velocity(lambda condition: scored(teacher, x0, condition), clips.condition, rules.guidance)
            scored(critic, x0, clips.condition)
        return clips.loss(x0) if discriminator is None else clips.loss(x0) + discriminator.student_loss(x0)

    def critic_loss() -> Tensor:
        return clips.loss(scored(critic, clips.x0, clips.condition))

    share = 1 / critic_per_student
    passes = [Pass(student_loss, share), Pass(lambda: rollout("none"), 1 - share), Pass(critic_loss)]
    trained: list[nn.Module] = [student, critic]
    if discriminator is not None:
        passes.append(Pass(discriminator.head_loss))
        trained.append(discriminator.head)
    window = contract.pattern.sink_frames + contract.pattern.ring_frames
    # What replay runs again sees the past that it saw, which is kept for it.
    kept = contract.pattern.first_frames + num_frames if gradient == "replay" else window
    frame_bytes = 2 * 4 * contract.dit.num_layers * contract.dit.dim * clips.tokens // num_frames
    cache_bytes = kept * frame_bytes
    return Work(trained, [teacher], passes, clips.tokens, cache_bytes=cache_bytes, host_bytes=host_bytes)


class _Discriminator:
    """What a discriminator on the critic's features adds to a batch; the student's clips stand for the data too."""

    def __init__(self, gan: partial[GAN], rules: DMDRules, clips: RandomClips, critic: DiT) -> None:
        dit = clips.config
        self._gan = gan(features=dit.dim, num_layers=dit.num_layers, schedule_steps=1)
        self._rules, self._critic, self._real = rules, critic, clips

    @property
    def head(self) -> nn.Module:
        return self._gan.head.model

    def student_loss(self, x0: Tensor) -> Tensor:
        """As `GAN.student_loss`, in one graph with the rollout: blocks that plans compute again allow no other. Its
        backward pass has the critic's weights too, which training leaves out: a third of one pass too much."""
        of_real, of_fake = self._gan.opinions(
            self._rules, self._real, self._real.with_x0(x0), critic=self._critic, generator=self._generator()
        )
        return F.softplus(of_real - of_fake).mean()

    def head_loss(self) -> Tensor:
        return self._gan.head_loss(
            self._rules, self._real, self._real, critic=self._critic, generator=self._generator()
        )

    def _generator(self) -> torch.Generator:
        return torch.Generator(self._real.x0.device)


def _roles(contract: Contract, adapters: RoleAdapters) -> tuple[DiT, DiT, DiT]:
    """Student, teacher and critic, as `distill.roles` makes them of real weights."""
    teacher = DiT(contract.dit).requires_grad_(False)
    critic = DiT(contract.dit) if adapters.critic is None else with_lora(teacher, adapters.critic)
    if adapters.student is None:
        return DiT(contract.dit), teacher, critic
    base = teacher if adapters.student_base == "teacher" else DiT(contract.dit)
    return with_lora(base, adapters.student), teacher, critic
