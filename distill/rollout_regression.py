"""Stage 4 of worlds: regression of the student's own streams on what happened under the same actions."""

from functools import partial

import torch
from jaxtyping import Float
from torch import Tensor

from data.batch import LatentBatch
from distill.student_forcing import Exit, RolloutGradient, RolloutRequest, check_gradient, exit_step, student_rollout
from gwm.dit import DiT
from train.learner import Learner
from train.networks import load_dit
from train.noise import sample_generators, step_generator
from train.stage import DiTStage


class RolloutRegressionStage(DiTStage):
    """A student that walks on its own past must arrive where the data did.

    Where actions decide what is seen next, the data is the one right answer to them and its mean is sharp, so that no
    critic is needed. Errors that a student makes on its own past are in the loss.
    Source: student forcing as in Huang et al. 2025, arXiv:2506.08009, Algorithm 1, with the squared distance to the
    data in place of a distribution's.
    """

    def __init__(
        self,
        *,
        init: str,
        sigmas: list[float],
        exit: Exit,
        gradient: RolloutGradient,
        network: partial[Learner[DiT]],
        seed: int,
    ) -> None:
        """sigmas: noise levels of the student's steps. exit: the step whose prediction is trained.

        Raises:
            ValueError: an unknown `gradient`, or weights that are no few-step student's.
        """
        super().__init__()
        check_gradient(gradient)
        model, contract = load_dit(init, stage="consistency")
        if not contract.has_own_steps:
            raise ValueError(f"init={init} must be a few-step student: run stage=consistency first.")
        self.contract = contract.replace(sigmas=tuple(sigmas), distilled=True)
        self.network = network(model)
        self.exit: Exit = exit
        self.gradient: RolloutGradient = gradient
        self.seed = seed

    def leave_at(self, step: int) -> int:
        """After which of the student's steps the chunks of a training step leave."""
        return exit_step(self.exit, len(self.contract.sigmas), step_generator(self.seed, step, torch.device("cpu")))

    def training_step(self, batch: LatentBatch, batch_idx: int) -> Float[Tensor, ""]:
        generators = sample_generators(self.seed, batch, self.device)
        request, clip = RolloutRequest(self.leave_at(batch.step), self.gradient, generators), batch.clip
        made = student_rollout(
            self.network.model, self.contract, request, clip.reference, clip.condition, clip.x0.shape[1]
        )
        loss = (made.x0 - clip.x0).square().mean()
        self.log("train/loss", loss)
        return loss
