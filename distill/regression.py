"""Stage 4b: regression on data wherever the voice does not explain the picture.

Distribution matching adds detail to every patch. Where no condition determines it, the details of neighbours disagree,
and the picture breaks into blocks; there the mean of the data looks better, and one step can learn it, by regression on
the student's own past. Where the voice explains the picture the student stays as it is: a mean hardly opens its mouth.
A world that its actions decide, such as a robot's, is regressed everywhere: what happens then has no other mean.
Actions that no voice determines but the data has, such as blinks, become a condition of each pixel frame.
"""

import copy
from collections.abc import Iterable, Sequence
from functools import partial

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float
from torch import Tensor

from data.batch import LatentBatch, LatentClips, latent_batch, latent_data
from distill.student_forcing import RolloutGradient, RolloutRequest, student_rollout
from gwm.clip import NoisedClip, teacher_forced_velocity
from gwm.condition.inputs import Conditions
from gwm.contract import Contract
from gwm.dit import Denoiser, DiT
from gwm.schedule import clean_estimate
from train.flow import motion_map
from train.learner import Learner
from train.networks import load_dit, with_actions
from train.noise import gaussian_like, sample_generators, step_generator
from train.stage import DiTStage

MAP_CLIPS = 64  # crops of as many clips: the lips' cells already stand out in 16
TELLING_SHARE = 0.1  # of a cell's variance; cells of which the voice explains more stay wholly as they are


@torch.no_grad()
def voice_map(
    model: Denoiser, contract: Contract, batches: Iterable[LatentBatch], *, seed: int
) -> Float[Tensor, "h w"]:
    """1 where the voice explains at least TELLING_SHARE of what the model cannot know without it, 0 where nothing.

    The share is 1 - error(voice) / error(no voice) of x0 predicted from noise and the clean past, each error averaged
    over 3x3 cells.
    """
    given, without = torch.zeros(()), torch.zeros(())
    for batch in batches:
        given = given + _error(model, contract, batch, batch.condition, seed=seed).mean(dim=(0, 1))
        without = without + _error(model, contract, batch, batch.condition.dropped("agent"), seed=seed).mean(dim=(0, 1))
    share = 1 - _smooth(given) / _smooth(without)
    return (share / TELLING_SHARE).clamp(0, 1)


@torch.no_grad()
def acting_map(
    model: Denoiser, contract: Contract, batches: Iterable[LatentBatch], *, seed: int
) -> Float[Tensor, "h w"]:
    """By how much more a model without actions errs in frames with one than in frames without, at least 0.

    Raises:
        ValueError: there are no actions in these batches, or nothing but.
    """
    errors: dict[bool, list[Tensor]] = {True: [], False: []}
    for batch in batches:
        error, acting = _error(model, contract, batch, batch.condition, seed=seed), is_acting(batch)
        for kind, found in errors.items():
            found.append(error[acting == kind])
    with_action, without = (torch.cat(errors[kind]) for kind in (True, False))
    if not (len(with_action) and len(without)):
        raise ValueError(
            f"{len(with_action)} frames with an action and {len(without)} without one must both be some, to see where "
            "the actions show. Take clips in which they change."
        )
    return (_smooth(with_action.mean(dim=0)) - _smooth(without.mean(dim=0))).clamp(min=0)


def is_acting(batch: LatentBatch) -> Bool[Tensor, "b f"]:
    """Whether an action is not zero in a latent frame.

    Raises:
        ValueError: the clips have no actions.
    """
    return (batch.condition["action"] != 0).any(dim=-1)


def _error(
    model: Denoiser, contract: Contract, batch: LatentBatch, condition: Conditions, *, seed: int
) -> Float[Tensor, "b f h w"]:
    noise = gaussian_like(batch.x0, step_generator(seed, batch.step, batch.x0.device))
    sigma = noise.new_ones(noise.shape[:2])
    noised = NoisedClip(noise, sigma, batch.reference, condition)
    velocity = teacher_forced_velocity(model, noised, contract.pattern, history=batch.x0)
    return (clean_estimate(noise, velocity, sigma) - batch.x0).square().mean(dim=2)


def _smooth(cells: Float[Tensor, "h w"]) -> Float[Tensor, "h w"]:
    return F.avg_pool2d(cells[None], 3, stride=1, padding=1, count_include_pad=False)[0]


class RegressionStage(DiTStage):
    """Regression of the student's streams on clips of data; in the voice's cells on the streams it made before.

    `teacher` is a causal model before its distillation, which says where the voice counts: see `voice_map`; None: it
    counts nowhere. With `actions` the student is given an input for them, and frames with an action count
    `acting_weight` times where they show (`acting_map`): few frames have one. A weight that depends on condition and
    place moves no minimum.
    Source: Yin et al. 2023, arXiv:2311.18828, Sec. 3.3 (regression beside distribution matching, on a teacher's pairs
    there), on the student's own past as in Huang et al. 2025, arXiv:2506.08009.
    """

    before: DiT | None  # as the student was; None: the voice counts nowhere
    voiced: Tensor
    weight: Tensor  # of a frame without actions
    acting: Tensor | None = None  # of a frame with one

    def __init__(
        self,
        *,
        init: str,
        teacher: str | None,
        motion_weight: float,
        network: partial[Learner[DiT]],
        seed: int,
        actions: Sequence[str] = (),
        acting_weight: float = 1.0,
    ) -> None:
        """actions: facial actions, by name; as in the data. A world has its own and none of these.

        Raises:
            ValueError: there are actions and no teacher, or the model has other actions.
        """
        super().__init__()
        if actions and teacher is None:
            raise ValueError(
                f"actions={list(actions)} must be [] where stage.teacher is null: a causal model says where they show. "
                "Name its weights, as stage.teacher=runs/NAME/causal/weights."
            )
        before, contract = load_dit(init, stage="dmd")
        self.before = None if teacher is None else copy.deepcopy(before).eval().requires_grad_(False)
        facial = contract.takes_sound or actions  # a world's shards declare its actions
        model, self.contract = with_actions(before, contract, actions) if facial else (before, contract)
        self.actions = self.contract.dit.names("action") if facial else ()
        self.network = network(model)
        self.teacher, self.motion_weight, self.seed = teacher, motion_weight, seed
        self.acting_weight = acting_weight

    def setup(self, stage: str) -> None:
        data = latent_data(self)
        if data.actions != self.actions:
            raise ValueError(
                f"actions={list(data.actions)} of the data must be {list(self.actions)}, what the student is "
                "given. Set actions for both."
            )
        self.weight = motion_map(data.motion, self.motion_weight)
        if self.teacher is None:
            return
        teacher, contract = load_dit(self.teacher, stage="causal")
        crops = LatentClips(data.clips, num_frames=data.num_frames, seed=self.seed)
        batches = [latent_batch([crops[k, 0, k]]) for k in range(min(MAP_CLIPS, len(data.clips)))]
        self.voiced = voice_map(teacher.eval(), contract, batches, seed=self.seed)
        if self.actions:
            shown = acting_map(teacher, contract, batches, seed=self.seed)
            self.acting = self.acting_weight * motion_map(shown, self.motion_weight)

    def training_step(self, batch: LatentBatch, batch_idx: int) -> Float[Tensor, ""]:
        target = batch.x0
        if self.before is not None:
            with torch.no_grad():
                before = self._stream(self.before, batch, "none")
            target = torch.lerp(target, before, self.voiced.to(self.device).expand_as(before))
        error = (self._stream(self.network.model, batch, "detach") - target).square()
        loss = (self._weight(batch) * error).mean()
        self.log("train/loss", loss)
        return loss

    def _weight(self, batch: LatentBatch) -> Float[Tensor, "*b h w"]:
        weight = self.weight.to(self.device)
        if self.acting is None:
            return weight
        return torch.where(is_acting(batch)[:, :, None, None, None], self.acting.to(self.device), weight)

    def _stream(self, model: DiT, batch: LatentBatch, gradient: RolloutGradient) -> Float[Tensor, "b f c h w"]:
        """The student's stream from the same noise for both models, so that they can be compared."""
        generators = sample_generators(self.seed, batch, self.device)
        request = RolloutRequest(len(self.contract.sigmas) - 1, gradient, generators)
        clip = batch.clip
        return student_rollout(model, self.contract, request, clip.reference, clip.condition, clip.x0.shape[1]).x0
