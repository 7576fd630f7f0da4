"""The stages on the toy chain: teacher forcing on data, consistency, DMD; each through the project's own losses."""

from copy import deepcopy
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor

from distill.consistency import ConsistencyRules, consistency_loss
from distill.dmd import DMDRules, critic_loss, dmd_loss, scored_clip
from distill.gan import GAN
from distill.student_forcing import Exit, RolloutGradient, RolloutRequest, exit_step, student_rollout
from distill.toy.chain import Chain, ChainCritic, ChainStudent, measures
from gwm.clip import CleanClip, teacher_forced_velocity
from gwm.condition.inputs import Conditions
from gwm.contract import Contract
from gwm.guidance import Guidance
from gwm.schedule import sigma_steps
from train.finite import NotFiniteError
from train.flow import velocity_loss
from train.learner import Learner
from train.noise import Corruption, chunk_sigmas, gaussian_like, step_generator

NOTHING = Conditions()
EVERYWHERE = torch.ones(1, 1)
WARMUP = 20


@dataclass(frozen=True, kw_only=True)
class Start:
    """Flow matching on data before distillation."""

    steps: int
    rate: float
    batch_size: int
    seed: int


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """How a student of the chain is distilled."""

    exit: Exit
    gradient: RolloutGradient
    critic_per_student: int
    steps: int  # critic updates
    batch_size: int
    student_rate: float
    critic_rate: float
    ema_decay: float
    clip_norm: float
    gan_weight: float  # 0: no discriminator
    head_rate: float  # of the discriminator
    seed: int


@dataclass(frozen=True, kw_only=True)
class Jump:
    """How a model of many steps learns to take few, before distillation."""

    steps: int
    num_levels: int
    shift: float
    rate: float
    batch_size: int


def adam(rate: float) -> partial[torch.optim.Adam]:
    return partial(torch.optim.Adam, lr=rate, betas=(0.0, 0.999), fused=True)


def learner(model: torch.nn.Module, rate: float, steps: int, *, ema_decay: float) -> Learner:
    return Learner(model, optimizer=adam(rate), schedule_steps=steps, warmup_steps=WARMUP, ema_decay=ema_decay)


class Fitting:
    """One learner with its optimizer and schedule, stepped by hand."""

    def __init__(self, network: Learner, clip_norm: float) -> None:
        self.network, self.clip_norm = network, clip_norm
        made = network.optimizers()
        self.optimizer, self.scheduler = made["optimizer"], made["lr_scheduler"]["scheduler"]

    def step(self, loss: Tensor) -> None:
        self.optimizer.zero_grad()
        loss.backward()
        norm = torch.nn.utils.clip_grad_norm_(self.network.model.parameters(), self.clip_norm)
        if not norm.isfinite():
            raise NotFiniteError(f"loss={float(loss)} has a gradient norm of {float(norm)}: lower the learning rate.")
        self.optimizer.step()
        self.scheduler.step()


def drawn(chain: Chain, count: int, generator: torch.Generator) -> CleanClip:
    """Clips of the chain behind their references."""
    clips = chain.clips(count, generator)
    return CleanClip(clips[:, 1:], clips[:, :1], NOTHING)


def teacher_forced(student: Learner, chain: Chain, contract: Contract, *, steps: int, batch_size: int) -> None:
    """Flow matching on the chain's clips, every frame after the clean ones before it."""
    fitting = Fitting(student, 10.0)
    for step in range(steps):
        generator = step_generator(1, step, torch.device("cpu"))
        clips = drawn(chain, batch_size, generator)
        sigma = chunk_sigmas(clips.x0, contract.pattern, shift=3.0, generator=generator)
        noise = gaussian_like(clips.x0, generator)
        noised = clips.noised(noise, sigma)
        velocity = teacher_forced_velocity(student.model, noised, contract.pattern, history=clips.x0)
        fitting.step(velocity_loss(velocity, clips.x0, noise, EVERYWHERE))


def made_consistent(student: Learner[ChainStudent], chain: Chain, contract: Contract, recipe: Jump) -> None:
    """Consistency distillation of the flow that the student already has: it learns to jump along its own paths."""
    teacher = deepcopy(student.model).requires_grad_(False)
    student.update_ema()  # the target exists before the first step
    rules = ConsistencyRules(
        levels=torch.tensor(sigma_steps(recipe.num_levels, shift=recipe.shift)),
        guidance=Guidance(),
        history=Corruption(),
        pattern=contract.pattern,
    )
    fitting = Fitting(student, 10.0)
    for step in range(recipe.steps):
        generator = step_generator(2, step, torch.device("cpu"))
        loss = consistency_loss(
            rules,
            drawn(chain, recipe.batch_size, generator),
            student=student.model,
            ema=student.ema_model,
            teacher=teacher,
            weight=EVERYWHERE,
            generator=generator,
        )
        fitting.step(loss)


@torch.no_grad()
def sampled(model: ChainStudent, chain: Chain, contract: Contract, *, count: int, seed: int) -> dict[str, float]:
    """What the student's own stream is like, all steps, reference from the chain."""
    generator = torch.Generator().manual_seed(seed)
    reference = chain.clips(count, generator)[:, :1]
    request = RolloutRequest(len(contract.sigmas) - 1, "none", generator)
    rollout = student_rollout(model, contract, request, reference, NOTHING, chain.num_frames)
    return measures(chain, torch.cat([reference, rollout.x0], dim=1))


def distilled(
    student: Learner,
    critic: Learner[ChainCritic],
    chain: Chain,
    contract: Contract,
    rules: DMDRules,
    recipe: Recipe,
    gan: GAN | None,
) -> None:
    """DMD with student forcing: the loop of `distill.dmd_stage.DMDStage` without Lightning."""
    teacher = critic.model.teacher
    fit_student, fit_critic = Fitting(student, recipe.clip_norm), Fitting(critic, recipe.clip_norm)
    fit_head = None if gan is None else Fitting(gan.head, recipe.clip_norm)
    for step in range(recipe.steps):
        generator = step_generator(recipe.seed, step, torch.device("cpu"))
        real = drawn(chain, recipe.batch_size, generator)
        of_student = step % recipe.critic_per_student == 0
        leave_at = exit_step(recipe.exit, len(contract.sigmas), generator)
        request = RolloutRequest(leave_at, recipe.gradient if of_student else "none", generator)
        rollout = student_rollout(student.model, contract, request, real.reference, NOTHING, chain.num_frames)
        fake = real.with_x0(rollout.x0)
        if of_student:
            scored = scored_clip(rules, fake, teacher=teacher, critic=critic.model, chunk_frames=1, generator=generator)
            loss = dmd_loss(fake.x0, scored.direction)
            if gan is not None:
                loss = loss + gan.student_loss(rules, real, fake, critic=critic.model, generator=generator)[0]
            fit_student.step(loss)
        fake = fake.with_x0(fake.x0.detach())
        fit_critic.step(critic_loss(rules, fake, critic=critic.model, generator=generator))
        if gan is not None and fit_head is not None:
            fit_head.step(gan.head_loss(rules, real, fake, critic=critic.model, generator=generator))
