"""A stream with classifier-free guidance."""

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from gwm.condition.inputs import Conditions
from gwm.contract import Contract
from gwm.dit import DiT
from gwm.guidance import Guidance, with_guidance
from gwm.rollout import Emit, Rollout, keep


@dataclass(frozen=True)
class Guided:
    """The guidance of a stream, and the tokens that stand for a dropped prompt: those of the empty prompt or of a
    negative one."""

    guidance: Guidance
    nothing: Mapping[str, Float[Tensor, "_ _"]]


class GuidedRollout(Rollout):
    """A rollout whose velocity is guided. Each branch without a condition has a cache of its own, in which that
    condition was never given; the latents of all branches are the same."""

    def __init__(self, model: DiT, contract: Contract, guided: Guided) -> None:
        super().__init__(model, contract)
        self.guided = guided
        self.without = [Rollout(model, contract) for _ in range(guided.guidance.num_passes(contract.dit) - 1)]
        for rollout in self.without:
            rollout.reference = self.reference

    @torch.no_grad()
    def start(self, reference: Float[Tensor, "b 1 c h w"] | None, condition: Conditions, *, seed: int) -> None:
        for rollout in self.without:
            rollout.cache.reset()
            rollout.prompt.forget()
        super().start(reference, condition, seed=seed)
        if reference is not None:
            for rollout in self.without:
                rollout.cache.advance(reference.shape[1])

    def set_prompt(self, condition: Conditions) -> None:
        if not self.has_prompt(condition):
            for rollout in self.without:
                rollout.prompt.forget()
        super().set_prompt(condition)

    @torch.no_grad()
    def generate(
        self, noises: Sequence[Float[Tensor, "b f c h w"]], condition: Conditions, emit: Emit = keep
    ) -> Float[Tensor, "b f c h w"]:
        for rollout in self.without:
            rollout.cache.follow(self.contract.pattern.chunk_frames)
        x = super().generate(noises, condition, emit)
        for rollout in self.without:
            rollout.cache.advance(x.shape[1])
        return x

    @torch.no_grad()
    def velocity(
        self, x: Float[Tensor, "b f c h w"], sigma: float, condition: Conditions
    ) -> Float[Tensor, "b f c h w"]:
        """One pass for each branch; each writes its keys and values into its own cache."""
        own, passes = super().velocity, iter(self.without)

        def predict(condition: Conditions) -> Tensor:
            if condition is given:  # the first of all passes
                return own(x, sigma, condition)
            return next(passes).velocity(x, sigma, condition)

        given = dataclasses.replace(condition, nothing=self.guided.nothing)
        return with_guidance(predict, given, self.guided.guidance)[1]
