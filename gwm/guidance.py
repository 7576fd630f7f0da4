"""Classifier-free guidance: predictions are pushed away from those without a condition, for each condition by
itself."""

from collections.abc import Callable, Iterable, Mapping
from itertools import groupby

import torch
from jaxtyping import Float
from torch import Tensor

from gwm.condition.inputs import Conditions
from gwm.config import DiTConfig

Predict = Callable[[Conditions], Float[Tensor, "b f c h w"]]


def guided(
    conditional: Float[Tensor, "b f c h w"], unconditional: Float[Tensor, "b f c h w"], scale: float
) -> Float[Tensor, "b f c h w"]:
    """Guidance in the standard form: uncond + scale (cond - uncond); 1 is no guidance.

    The Self-Forcing lineage writes cond + g (cond - uncond), which is this with scale = g + 1.
    """
    return torch.lerp(unconditional, conditional, scale)


class Guidance:
    """How far predictions are pushed along each condition, in the standard form; 1 is no guidance. With text and agent:

        v(-, -) + text (v(text, -) - v(-, -)) + agent (v(text, agent) - v(text, -))

    where v(-, -) is without both; conditions without a scale are always given. Conditions act in the order in which the
    model declares them. Equal scales s of neighbours give v(-, -) + s (v(text, agent) - v(-, -)), as if both were one
    condition. The Self-Forcing lineage writes cond + g (cond - uncond): that is s = g + 1, so its 3.0 is 4.0 here.

    Source: Ho and Salimans 2022, arXiv:2207.12598; for several conditions, one after the other, Brooks et al. 2023,
    arXiv:2211.09800, Eq. 3.
    """

    def __init__(self, **scales: float) -> None:
        """scales: by name of the condition."""
        self.scales: Mapping[str, float] = scales

    def check(self, config: DiTConfig) -> None:
        """Refuse scales that the model's conditions cannot follow.

        Raises:
            ValueError: a scale of its own for a condition that the model does not have, or that cannot be dropped.
        """
        droppable = [spec.name for spec in config.conditions if spec.rate != "channels"]
        shared = {1.0, *(scale for name, scale in self.scales.items() if name in droppable)}
        for name, scale in self.scales.items():
            if name not in droppable and scale not in shared:
                raise ValueError(
                    f"guidance.{name}={scale:g} must be 1, or equal to another scale: the model has no such condition "
                    "to drop."
                )

    def groups(self, names: Iterable[str]) -> list[tuple[float, list[str]]]:
        """Scales and the conditions that are dropped together, outermost first. What is outermost and not pushed need
        not be dropped."""
        scaled = [name for name in names if name in self.scales]
        groups = [(scale, list(group)) for scale, group in groupby(scaled, key=lambda name: self.scales[name])]
        return groups[1:] if groups and groups[0][0] == 1 else groups

    def num_passes(self, config: DiTConfig) -> int:
        """Passes of the network for one prediction."""
        return 1 + len(self.groups(spec.name for spec in config.conditions if spec.rate != "channels"))


def guided_velocity(predict: Predict, condition: Conditions, guidance: Guidance) -> Float[Tensor, "b f c h w"]:
    """The guided velocity of `predict` under `condition`; as many passes as the scales need, one where all are 1."""
    return with_guidance(predict, condition, guidance)[1]


def with_guidance(
    predict: Predict, condition: Conditions, guidance: Guidance
) -> tuple[Float[Tensor, "b f c h w"], Float[Tensor, "b f c h w"]]:
    """The prediction under `condition`, without and with guidance."""
    conditional = predict(condition)
    groups = guidance.groups((*condition.tokens, *condition.frame))
    if not groups:
        return conditional, conditional
    points, left = [conditional], condition
    for _, group in reversed(groups):
        for name in group:
            left = left.dropped(name)
        points.insert(0, predict(left))
    pushed = guided(points[1], points[0], groups[0][0])
    for (scale, _), without, given in zip(groups[1:], points[1:], points[2:], strict=False):
        pushed = pushed + scale * (given - without)
    return conditional, pushed
