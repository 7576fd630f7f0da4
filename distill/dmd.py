"""Distribution matching distillation as a pure function: networks, guidance and noise stay with the caller."""

from typing import Literal, get_args

from jaxtyping import Float
from torch import Tensor

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
