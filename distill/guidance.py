"""Predictions with guidance on the agent's speech."""

from collections.abc import Callable

from jaxtyping import Float
from torch import Tensor

from distill.dmd import guided
from gwm.condition.inputs import Condition

Predict = Callable[[Condition], Float[Tensor, "b f c h w"]]


def guided_velocity(predict: Predict, condition: Condition, scale: float) -> Float[Tensor, "b f c h w"]:
    """`predict` under `condition`, pushed away from its prediction without the agent's voice; scale 1: one pass."""
    return with_guidance(predict, condition, scale)[1]


def with_guidance(
    predict: Predict, condition: Condition, scale: float
) -> tuple[Float[Tensor, "b f c h w"], Float[Tensor, "b f c h w"]]:
    """The prediction under `condition` as it is, and pushed away from the one without the agent's voice."""
    conditional = predict(condition)
    if scale == 1:
        return conditional, conditional
    return conditional, guided(conditional, predict(condition.without_agent()), scale)
