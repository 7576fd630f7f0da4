"""The discriminator: whose gradient reaches what, against finite differences and by hand."""

import math
from functools import partial

import pytest
import torch
from torch import Tensor, nn

from distill.dmd import DMDRules
from distill.gan import GAN, Head
from gwm.clip import CleanClip
from gwm.dit import DiT
from gwm.guidance import Guidance
from tests.tiny import DIT, latents, speech, tiny_dit
from train.learner import Learner

RULES = DMDRules(normaliser="sample", normaliser_floor=1e-3, guidance=Guidance(), shift=1.0, sigma_range=(0.3, 0.9))
FRAMES = 2


def gan(*, weight: float = 0.5, layers: tuple[int, ...] = (0, 1), lively: bool = True) -> GAN:
    adam = partial(torch.optim.Adam, lr=1e-2)
    head = partial(Learner, optimizer=adam, warmup_steps=1, ema_decay=0.9)
    shape = {"features": DIT.dim, "num_layers": DIT.num_layers, "layers": layers, "width": 8}
    made = GAN(**shape, weight=weight, schedule_steps=100, head=head)
    if lively:
        nn.init.normal_(made.head.model.layers[-1].weight, std=0.5)
    return made


def shown(x0: Tensor) -> CleanClip:
    torch.manual_seed(len(x0))
    return CleanClip(x0, latents(1, len(x0)).to(x0), speech(FRAMES, len(x0)))


def how(critic: DiT, seed: int = 0) -> dict[str, object]:
    return {"critic": critic, "generator": torch.Generator().manual_seed(seed)}


def test_the_students_gradient_is_that_of_its_loss():
    """Against finite differences of the loss's value, in the clip's every place along a random direction."""
    torch.set_default_dtype(torch.float64)
    try:
        made, critic = gan().double(), tiny_dit().double()
        real, x0, towards = shown(latents(FRAMES)), latents(FRAMES).requires_grad_(), latents(FRAMES)

        def loss(clip: Tensor) -> Tensor:
            return made.student_loss(RULES, real, shown(clip), **how(critic))[0]

        (found,) = torch.autograd.grad(loss(x0), x0)
        step = 1e-2  # angles and norms are in float32
        difference = loss(x0.detach() + step * towards) - loss(x0.detach() - step * towards)
        assert (found * towards).sum().item() == pytest.approx(difference.item() / (2 * step), rel=2e-2)
        assert found.abs().min() > 0
    finally:
        torch.set_default_dtype(torch.float32)


def test_the_students_loss_moves_neither_critic_nor_head():
    made, critic, x0 = gan(), tiny_dit(), latents(FRAMES).requires_grad_()
    made.student_loss(RULES, shown(latents(FRAMES)), shown(x0), **how(critic))[0].backward()
    assert x0.grad is not None
    assert all(parameter.grad is None for parameter in [*critic.parameters(), *made.parameters()])


def test_the_heads_loss_moves_the_head_alone():
    made, critic, x0 = gan(), tiny_dit(), latents(FRAMES).requires_grad_()
    made.head_loss(RULES, shown(latents(FRAMES)), shown(x0), **how(critic)).backward()
    assert x0.grad is None and all(parameter.grad is None for parameter in critic.parameters())
    assert all(parameter.grad is not None for parameter in made.head.model.parameters())


def test_the_two_losses_are_those_of_one_gap():
    """RSGAN: log(1 + e^-gap) for the head and log(1 + e^gap) for the student, so they differ by the gap; per pair."""
    made, critic = gan(weight=1.0), tiny_dit()
    real, fake = shown(latents(FRAMES, 1)), shown(latents(FRAMES, 1))
    head = made.head_loss(RULES, real, fake, **how(critic)).item()
    student, health = made.student_loss(RULES, real, fake, **how(critic))
    gap = health["gan_gap"].item()
    assert abs(gap) > 1e-3
    assert head == pytest.approx(math.log1p(math.exp(-gap)), rel=1e-4)
    assert student.item() == pytest.approx(math.log1p(math.exp(gap)), rel=1e-4)


def test_equal_clips_have_no_gap():
    """Both of a pair get the same noise at the same level."""
    made, critic, clip = gan(), tiny_dit(), shown(latents(FRAMES))
    assert made.student_loss(RULES, clip, clip, **how(critic))[1]["gan_gap"] == 0


def test_a_new_head_pulls_nowhere():
    made, critic, x0 = gan(lively=False), tiny_dit(), latents(FRAMES).requires_grad_()
    loss, health = made.student_loss(RULES, shown(latents(FRAMES)), shown(x0), **how(critic))
    loss.backward()
    assert x0.grad is not None and not x0.grad.any() and health["gan_norm"] == 0


def test_the_head_learns_to_tell_clips_and_the_student_follows_its_gradient():
    """Real clips are brighter: after the head has learnt it, the student's gradient makes its clips brighter too."""
    made, critic = gan(lively=False), tiny_dit()
    made_by: dict = made.head.optimizers()
    real = shown(latents(FRAMES, 4)).with_x0(latents(FRAMES, 4) + 1.0)
    for step in range(30):
        fake = real.with_x0(real.x0 - 1.0)
        made_by["optimizer"].zero_grad()
        made.head_loss(RULES, real, fake, **how(critic, step)).backward()
        made_by["optimizer"].step()
    x0 = (real.x0 - 1.0).requires_grad_()
    loss, health = made.student_loss(RULES, real, real.with_x0(x0), **how(critic, 99))
    assert health["gan_gap"] > 0.5
    (gradient,) = torch.autograd.grad(loss, x0)
    assert gradient.mean() < 0


def test_only_the_chosen_layers_are_seen():
    """The last layer's weights do not matter to a head that looks at the first."""
    made, critic = gan(layers=(0,)), tiny_dit()
    real, fake = shown(latents(FRAMES)), shown(latents(FRAMES)).with_x0(latents(FRAMES))
    before = made.head_loss(RULES, real, fake, **how(critic))
    nn.init.normal_(critic.blocks[1].attention.v.weight)
    assert torch.equal(made.head_loss(RULES, real, fake, **how(critic)), before)
    nn.init.normal_(critic.blocks[0].attention.v.weight)
    assert not torch.equal(made.head_loss(RULES, real, fake, **how(critic)), before)


def test_a_head_says_one_number_of_a_clip():
    head = Head(3, 4)
    nn.init.normal_(head.layers[-1].weight)
    tokens = torch.randn(2, 5, 3)
    torch.testing.assert_close(head(tokens), torch.stack([head(tokens[:, i : i + 1]) for i in range(5)]).mean(0))


@pytest.mark.parametrize("wrong", [{"layers": ()}, {"layers": (2,)}, {"weight": 0.0}])
def test_what_cannot_be_is_an_error(wrong: dict):
    with pytest.raises(ValueError, match=r"gan\.(layers|weight)="):
        gan(**wrong)
