"""Predictions pushed away from what the model says when it is not told something, for each condition apart."""

from collections.abc import Callable
from dataclasses import dataclass

from jaxtyping import Float
from torch import Tensor

from distill.dmd import guided
from gwm.condition.inputs import Condition
from gwm.config import DiTConfig

Predict = Callable[[Condition], Float[Tensor, "b f c h w"]]


@dataclass(frozen=True, kw_only=True)
class Guidance:
    """How far predictions are pushed, in the standard form; 1 is as far as the condition itself goes.

        v(-, -) + text (v(text, -) - v(-, -)) + agent (v(text, agent) - v(text, -))

    where v(-, -) is told neither and the other side's voice, actions and images are always given. Equal scales s are
    v(-, -) + s (v(text, agent) - v(-, -)), as if both were one condition. The Self-Forcing lineage writes
    cond + g (cond - uncond): that is s = g + 1, so its 3.0 is 4.0 here.

    Source: Ho and Salimans 2022, arXiv:2207.12598; for two conditions, one after the other, Brooks et al. 2023,
    arXiv:2211.09800, Eq. 3.
    """

    agent: float = 1.0  # on the character's own voice
    text: float = 1.0

    def check(self, config: DiTConfig) -> None:
        """Raises:
        ValueError: a scale of its own for a condition that the model does not have.
        """
        for name, scale, size in (("agent", self.agent, config.speech_dim), ("text", self.text, config.text_dim)):
            if not size and scale not in (1, self.agent + self.text - scale):
                raise ValueError(
                    f"guidance.{name}={scale:g} must be 1, or equal to the other scale: the model has no such "
                    "condition to drop."
                )


def guided_velocity(predict: Predict, condition: Condition, guidance: Guidance) -> Float[Tensor, "b f c h w"]:
    """`predict` under `condition`, pushed; as many passes as the scales need, one where all are 1."""
    return with_guidance(predict, condition, guidance)[1]


def with_guidance(
    predict: Predict, condition: Condition, guidance: Guidance
) -> tuple[Float[Tensor, "b f c h w"], Float[Tensor, "b f c h w"]]:
    """The prediction under `condition` as it is, and pushed."""
    conditional = predict(condition)
    # A condition that is not there goes with the other one: dropping it changes nothing.
    agent = guidance.text if condition.agent is None else guidance.agent
    text = guidance.agent if condition.text is None else guidance.text
    if agent == text == 1:
        return conditional, conditional
    silent = condition.without_agent()
    if agent == text:
        return conditional, guided(conditional, predict(silent.without_text()), agent)
    told = predict(silent)
    if text == 1:
        return conditional, guided(conditional, told, agent)
    return conditional, guided(told, predict(silent.without_text()), text) + agent * (conditional - told)
