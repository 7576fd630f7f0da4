"""Distribution matching distillation: the gradient as a pure function, and two losses for any teacher and critic."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, get_args

import torch
from jaxtyping import Float
from torch import Tensor

from gwm.chunks import whole_clip
from gwm.clip import CleanClip, NoisedClip, clip_velocity
from gwm.dit import Denoiser
from gwm.guidance import Guidance, with_guidance
from gwm.schedule import clean_estimate
from train.flow import clean_weight, velocity_loss
from train.noise import Generators, clip_sigmas, gaussian_like

Normaliser = Literal["sample", "chunk", "batch"]


def normaliser_scale(
    distance: Float[Tensor, "b f c h w"], normaliser: Normaliser, *, chunk_frames: int, floor: float
) -> Float[Tensor, "#b #f 1 1 1"]:
    """Mean of `distance` per sample, per chunk or over the batch, never below `floor`."""
    if normaliser not in get_args(Normaliser):
        raise ValueError(f"normaliser={normaliser!r} must be one of {get_args(Normaliser)}.")
    if normaliser == "batch":
        scale = distance.mean().view(1, 1, 1, 1, 1)
    elif normaliser == "sample":
        scale = distance.mean(dim=(1, 2, 3, 4), keepdim=True)
    else:
        chunks = distance.unflatten(1, (-1, chunk_frames)).mean(dim=(2, 3, 4, 5))
        scale = chunks.repeat_interleave(chunk_frames, dim=1)[..., None, None, None]
    return scale.clamp(min=floor)


def dmd_direction(
    x0: Float[Tensor, "b f c h w"],
    x0_teacher: Float[Tensor, "b f c h w"],
    x0_critic: Float[Tensor, "b f c h w"],
    normaliser: Normaliser,
    *,
    chunk_frames: int,
    floor: float,
) -> tuple[Float[Tensor, "b f c h w"], Float[Tensor, "#b #f 1 1 1"]]:
    """(x0_critic - x0_teacher) / mean |x0 - x0_teacher|, the gradient of DMD, and its divisor.

    Source: Yin et al. 2023, arXiv:2311.18828, Eq. 7 (direction) and Eq. 8 (normaliser, per sample there).
    """
    x, teacher, critic = x0.float(), x0_teacher.float(), x0_critic.float()
    scale = normaliser_scale((x - teacher).abs(), normaliser, chunk_frames=chunk_frames, floor=floor)
    return (critic - teacher) / scale, scale


def dmd_loss(x0: Float[Tensor, "b f c h w"], direction: Float[Tensor, "b f c h w"]) -> Float[Tensor, ""]:
    """Surrogate whose gradient with respect to `x0` is `direction` divided by the number of elements."""
    target = (x0.float() - direction).detach()
    return 0.5 * (x0.float() - target).square().mean()


@dataclass(frozen=True, kw_only=True)
class DMDRules:
    """Every convention that published code leaves implicit."""

    normaliser: Normaliser
    normaliser_floor: float
    guidance: Guidance  # of the teacher
    shift: float  # of the noise levels at which clips are scored
    sigma_range: Sequence[float]  # lowest and highest of them

    def __post_init__(self) -> None:
        low, high = self.sigma_range
        if not 0 < low < high <= 1:
            raise ValueError(f"sigma_range={self.sigma_range} must be two rising noise levels in (0, 1].")

    def sigma(self, x0: Float[Tensor, "b f c h w"], generator: Generators) -> Float[Tensor, "b f"]:
        """One noise level per clip: uniform, shifted, then clamped."""
        low, high = self.sigma_range
        level = clip_sigmas(x0, shift=self.shift, generator=generator)
        return level.clamp(low, high)


@dataclass(frozen=True)
class ScoredClip:
    """A student's clip with what teacher and critic made of it at one noise level; nothing here carries gradient."""

    direction: Float[Tensor, "b f c h w"]
    scale: Float[Tensor, "#b #f 1 1 1"]  # what the direction was divided by
    critic_lag: Float[Tensor, ""]  # flow loss of the critic over that of the teacher, on the student's own clip


def score(model: Denoiser, clip: NoisedClip) -> Float[Tensor, "b f c h w"]:
    """Velocity of a clip by a model that sees all of it."""
    return clip_velocity(model, clip, whole_clip(clip.x.shape[1] + 1, first_frames=1))


@torch.no_grad()
def scored_clip(
    rules: DMDRules,
    clip: CleanClip,
    *,
    teacher: Denoiser,
    critic: Denoiser,
    chunk_frames: int,
    generator: Generators,
) -> ScoredClip:
    """Noise a clip once and have both networks predict it.

    Source: Yin et al. 2023, arXiv:2311.18828, Algorithm 1; one noise level for the whole clip as in arXiv:2506.08009.
    """
    x0, sigma = clip.x0, rules.sigma(clip.x0, generator)
    noise = gaussian_like(x0, generator)
    noised = clip.noised(noise, sigma)
    real, pushed = with_guidance(lambda c: score(teacher, noised.under(c)), clip.condition, rules.guidance)
    fake = score(critic, noised)
    x0_teacher, x0_critic = (clean_estimate(noised.x, velocity, sigma) for velocity in (pushed, fake))
    lag = _flow_loss(fake, x0, noise, sigma, critic) / _flow_loss(real, x0, noise, sigma, teacher).clamp(min=1e-12)
    direction, scale = dmd_direction(
        x0, x0_teacher, x0_critic, rules.normaliser, chunk_frames=chunk_frames, floor=rules.normaliser_floor
    )
    return ScoredClip(direction, scale, lag)


def critic_loss(rules: DMDRules, clip: CleanClip, *, critic: Denoiser, generator: Generators) -> Float[Tensor, ""]:
    """Flow matching on the student's clips, at the noise levels of the student's loss."""
    sigma = rules.sigma(clip.x0, generator)
    noise = gaussian_like(clip.x0, generator)
    return _flow_loss(score(critic, clip.noised(noise, sigma)), clip.x0, noise, sigma, critic)


def _flow_loss(velocity: Tensor, x0: Tensor, noise: Tensor, sigma: Tensor, model: Denoiser) -> Tensor:
    everywhere, levels = x0.new_ones(x0.shape[-2:]), clean_weight(sigma, model.config)
    return velocity_loss(velocity, x0, noise, everywhere, level_weight=levels)
