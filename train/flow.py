"""Flow matching: the loss that the bidirectional and the causal stage share."""

from jaxtyping import Float
from torch import Tensor

from gwm.config import DiTConfig
from gwm.dit import MIN_SIGMA


def velocity_loss(
    velocity: Float[Tensor, "b f c h w"],
    x0: Float[Tensor, "b f c h w"],
    noise: Float[Tensor, "b f c h w"],
    weight: Float[Tensor, "*k h w"],
    *,
    level_weight: Float[Tensor, "b f"] | None = None,
) -> Float[Tensor, ""]:
    """Mean squared error of the velocity, each latent cell (or number of one) weighted by a fixed map of mean 1, each
    frame by a function of its noise level (None: equally).

    Weights depend on place and level and never on the sample, so the minimiser is the same as without it.
    Source: Lipman et al. 2023, arXiv:2210.02747, Eq. 23 (with time reversed).
    """
    error = (weight * (velocity - (noise - x0)).square()).mean(dim=(2, 3, 4))
    return (error if level_weight is None else level_weight * error).mean()


def motion_map(motion: Float[Tensor, "*c h w"], strength: float) -> Float[Tensor, "*c h w"]:
    """Loss weight of each latent cell or number: (1 - strength) + strength * motion, for a motion map of mean 1.

    Raises:
        ValueError: `strength` is outside [0, 1).
    """
    if not 0 <= strength < 1:
        raise ValueError(f"motion_weight={strength} must be in [0, 1): 0 weighs every place equally.")
    return 1 - strength + strength * motion / motion.mean()


def clean_weight(sigma: Float[Tensor, "b f"], config: DiTConfig) -> Float[Tensor, "b f"] | None:
    """Level weights under which a model that predicts x0 is trained by its error in x0; None for the others.

    Unweighted, the lowest levels would count most, where detail that cannot pass its width is all that is left.
    """
    return sigma.clamp(min=MIN_SIGMA).square() if config.around_reference else None
