"""The two losses of DMD against values worked out by hand, on networks that answer what a table says."""

import pytest
import torch
from torch import Tensor

from distill.dmd import DMDRules, Normaliser, ScoredClip, critic_loss, dmd_loss, score, scored_clip
from gwm.block import Context
from gwm.clip import CleanClip, NoisedClip
from gwm.condition.inputs import Conditions
from gwm.config import DiTConfig
from gwm.dit import Prediction
from gwm.guidance import Guidance
from tests.tiny import latents, speech, tiny_dit

ROUND = 1e-5  # float32
SHAPE = DiTConfig(in_channels=1, patch=1)
LINEAGE = 3.0  # Self-Forcing's guidance_scale: cond + 3 (cond - uncond)

# Two samples of two frames of one number each.
X0 = torch.tensor([[1.0, 2.0], [0.0, 6.0]])
CONDITIONAL = torch.tensor([[1.0, 0.0], [2.0, 1.0]])
UNCONDITIONAL = torch.tensor([[0.0, 1.0], [1.0, 1.0]])
CRITIC = torch.tensor([[2.0, 1.0], [3.0, 0.0]])
CLIP = CleanClip(
    X0[..., None, None, None],
    torch.zeros(2, 1, 1, 1, 1),
    Conditions(frame={"agent": torch.ones(2, 2, 1), "user": torch.ones(2, 2, 1)}),
)


class Table:
    """Says that the clean clip is `heard`, or `unheard` where the agent's voice is dropped."""

    def __init__(self, heard: Tensor, unheard: Tensor) -> None:
        self.config, self.heard, self.unheard = SHAPE, heard, unheard

    def __call__(
        self, x: Tensor, sigma: Tensor, condition: Conditions, *, positions: Tensor, context: Context,
        reference: Tensor | None = None,
    ) -> Prediction:  # fmt: skip
        assert condition["agent"] is not None
        x0 = (self.heard if condition["agent"].any() else self.unheard)[..., None, None, None]
        velocity = (x[:, 1:] - x0) / sigma[:, 1:, None, None, None]
        return Prediction(torch.cat([torch.zeros_like(x[:, :1]), velocity], dim=1), ())


def rules(normaliser: Normaliser = "sample", guidance: float = 1.0) -> DMDRules:
    return DMDRules(
        normaliser=normaliser,
        normaliser_floor=1e-3,
        guidance=Guidance(agent=guidance),
        shift=1.0,
        sigma_range=(0.4, 0.98),
    )


def scored(how: DMDRules, *, critic: Tensor = CRITIC) -> ScoredClip:
    return scored_clip(
        how,
        CLIP,
        teacher=Table(CONDITIONAL, UNCONDITIONAL),
        critic=Table(critic, critic),
        chunk_frames=1,
        generator=torch.Generator().manual_seed(0),
    )


# With the standard form at scale 3 the teacher says uncond + 3 (cond - uncond) = 3, -2 | 4, 1. So it is 2, 4 | 4, 5
# away from the clip and critic - teacher is -1, 3 | -1, -1. In the lineage's form at 3, which is the standard form
# at 4: 4, -3 | 5, 1; away 3, 5 | 5, 5; critic - teacher -2, 4 | -2, -1. The gradient is that over the distance over
# 4 elements.
GOLDEN = {
    ("sample", 3.0): [[-1 / 12, 1 / 4], [-1 / 18, -1 / 18]],  # mean distances 3 | 4.5
    ("chunk", 3.0): [[-1 / 8, 3 / 16], [-1 / 16, -1 / 20]],  # one frame a chunk
    ("batch", 3.0): [[-1 / 15, 3 / 15], [-1 / 15, -1 / 15]],  # mean distance 3.75
    ("sample", LINEAGE + 1): [[-1 / 8, 1 / 4], [-1 / 10, -1 / 20]],  # 4 | 5
    ("chunk", LINEAGE + 1): [[-1 / 6, 1 / 5], [-1 / 10, -1 / 20]],
    ("batch", LINEAGE + 1): [[-1 / 9, 2 / 9], [-1 / 9, -1 / 18]],  # 4.5
}


@pytest.mark.parametrize(("normaliser", "guidance"), GOLDEN)
def test_gradient_is_the_one_worked_out_by_hand(normaliser: Normaliser, guidance: float):
    x0 = X0[..., None, None, None].clone().requires_grad_()
    loss = dmd_loss(x0, scored(rules(normaliser, guidance)).direction)
    made = torch.autograd.grad(loss, x0)[0].flatten(1)
    torch.testing.assert_close(made, torch.tensor(GOLDEN[normaliser, guidance]), rtol=ROUND, atol=ROUND)


def test_the_lag_is_one_when_critic_and_teacher_agree_and_grows_with_the_critics_error():
    """Whatever the guidance: the teacher is compared without it."""
    for guidance in (1.0, 3.0):
        agreed = scored(rules(guidance=guidance), critic=CONDITIONAL).critic_lag
        torch.testing.assert_close(agreed, torch.tensor(1.0), rtol=ROUND, atol=ROUND)
    # Errors of x0 weigh 1 / sigma^2, the same for both frames of a sample: 0, 2 | 2, 5 against 10, 0 | 0, 0.
    assert scored(rules(), critic=X0).critic_lag < 1e-9
    assert scored(rules(), critic=X0 + 10).critic_lag > 10


def test_the_scale_is_the_mean_distance_to_the_teacher():
    made = scored(rules("sample", 3.0)).scale.flatten()
    torch.testing.assert_close(made, torch.tensor([3.0, 4.5]), rtol=ROUND, atol=ROUND)


@pytest.mark.parametrize("normaliser", ["sample", "chunk"])
def test_each_sample_is_scored_by_itself(normaliser: Normaliser):
    """No element of a batch stands for the others: what the second one is does not move the first one's direction."""
    critic, teacher, reference, condition = tiny_dit(), tiny_dit(), latents(1), speech(3)
    first, second, third = latents(3, 1), latents(3, 1), latents(3, 1)
    made = [
        scored_clip(
            rules(normaliser, 2.0), CleanClip(torch.cat([first, other]), reference, condition), teacher=teacher,
            critic=critic, chunk_frames=1, generator=torch.Generator().manual_seed(0),
        ).direction
        for other in (second, third)
    ]  # fmt: skip
    torch.testing.assert_close(made[0][0], made[1][0], rtol=ROUND, atol=ROUND)
    assert (made[0][1] - made[1][1]).abs().max() > 1e-3


def test_scoring_builds_no_graph_even_through_networks_that_learn():
    """A 14 B teacher's activations would not fit; published code kept them when its GAN was off."""
    teacher, critic = tiny_dit(), tiny_dit()
    made = scored_clip(
        rules(guidance=2.0), CleanClip(latents(3).requires_grad_(), latents(1), speech(3)), teacher=teacher,
        critic=critic, chunk_frames=1, generator=torch.Generator().manual_seed(0),
    )  # fmt: skip
    assert not any(z.requires_grad for z in (made.direction, made.scale, made.critic_lag))


def test_the_critic_learns_the_flow_to_the_students_clips():
    """A critic that knows the clip has no loss; one that is off by d in x0 has (d / sigma)^2."""

    def loss(says: Tensor) -> float:
        generator = torch.Generator().manual_seed(0)
        return critic_loss(rules(), CLIP, critic=Table(says, says), generator=generator).item()

    assert loss(X0) < 1e-9
    sigma = rules().sigma(CLIP.x0, torch.Generator().manual_seed(0))
    assert loss(X0 + 2) == pytest.approx((2 / sigma).square().mean().item(), rel=1e-4)


def test_levels_are_shifted_and_then_clamped():
    how = DMDRules(normaliser="sample", normaliser_floor=1e-3, guidance=Guidance(), shift=5.0, sigma_range=(0.3, 0.9))
    drawn = how.sigma(torch.zeros(4000, 2, 1, 1, 1), torch.Generator().manual_seed(0))
    assert torch.equal(drawn[:, 0], drawn[:, 1])
    assert (drawn.min().item(), drawn.max().item()) == (pytest.approx(0.3), pytest.approx(0.9))
    # sigma < 0.75 where u < 0.375 for shift 5: 5 u / (1 + 4 u) = 0.75
    assert (drawn[:, 0] < 0.75).float().mean().item() == pytest.approx(0.375, abs=0.03)


@pytest.mark.parametrize("seed", range(4))
def test_both_losses_score_clips_at_shifted_and_clamped_levels(seed: int):
    """Of the critic's loss as of the student's: uniform u, 5 u / (1 + 4 u), clamped."""
    how = DMDRules(normaliser="sample", normaliser_floor=1e-3, guidance=Guidance(), shift=5.0, sigma_range=(0.6, 0.8))
    model, clip = tiny_dit(), CleanClip(latents(3), latents(1), speech(3))
    levels: list[Tensor] = []
    model.register_forward_pre_hook(lambda _, inputs: levels.append(inputs[1][:, 1:]))
    critic_loss(how, clip, critic=model, generator=torch.Generator().manual_seed(seed))
    scored_clip(how, clip, teacher=model, critic=model, chunk_frames=1, generator=torch.Generator().manual_seed(seed))
    u = torch.rand((2, 1), generator=torch.Generator().manual_seed(seed))
    expected = (5 * u / (1 + 4 * u)).clamp(0.6, 0.8).expand(-1, 3)
    assert len(levels) == 3  # the critic's loss, then teacher and critic
    for found in levels:
        torch.testing.assert_close(found, expected)


def test_score_is_that_of_a_clip_which_sees_itself_whole():
    """The last frame reaches the first frame's score: teacher and critic are not causal."""
    model, x, reference, condition = tiny_dit(), latents(3), latents(1), speech(3)
    sigma = torch.full((2, 3), 0.5)
    before = score(model, NoisedClip(x, sigma, reference, condition))
    x[:, -1] += 1
    assert (score(model, NoisedClip(x, sigma, reference, condition))[:, 0] - before[:, 0]).abs().max() > 1e-4


@pytest.mark.parametrize("wrong", [(0.0, 0.9), (0.9, 0.1), (0.1, 1.2)])
def test_levels_outside_the_schedule_are_an_error(wrong: tuple[float, float]):
    with pytest.raises(ValueError, match="sigma_range="):
        DMDRules(normaliser="sample", normaliser_floor=1e-3, guidance=Guidance(), shift=1.0, sigma_range=wrong)
