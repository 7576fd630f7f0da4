"""Flow matching: the loss that the bidirectional and the causal stage share."""

from jaxtyping import Float
from torch import Tensor


def velocity_loss(
    velocity: Float[Tensor, "b f c h w"],
    x0: Float[Tensor, "b f c h w"],
    noise: Float[Tensor, "b f c h w"],
    weight: Float[Tensor, "h w"],
) -> Float[Tensor, ""]:
    """Mean squared error of the velocity, each latent cell weighted by a fixed map of mean 1.

    The map depends on the place and never on the sample, so the minimiser is the same as without it.
    Source: Lipman et al. 2023, arXiv:2210.02747, Eq. 23 (with time reversed).
    """
    return (weight * (velocity - (noise - x0)).square()).mean()


def motion_map(motion: Float[Tensor, "h w"], strength: float) -> Float[Tensor, "h w"]:
    """Loss weight of each latent cell: (1 - strength) + strength * motion, for a motion map of mean 1.

    Raises:
        ValueError: `strength` is outside [0, 1).
    """
    if not 0 <= strength < 1:
        raise ValueError(f"motion_weight={strength} must be in [0, 1): 0 weighs every place equally.")
    return 1 - strength + strength * motion / motion.mean()
