"""Predictions with guidance on the agent's speech."""

from collections.abc import Callable

from jaxtyping import Float
from torch import Tensor

from distill.dmd import guided
from gwm.condition.inputs import Condition


def guided_velocity(
    predict: Callable[[Condition], Float[Tensor, "b f c h w"]], condition: Condition, scale: float
) -> Float[Tensor, "b f c h w"]:
    """`predict` under `condition`, pushed away from its prediction without the agent's voice; scale 1: one pass."""
    conditional = predict(condition)
    return conditional if scale == 1 else guided(conditional, predict(condition.without_agent()), scale)
