"""Rollouts of the student: their gradient against the same gradient without any cache."""

import pytest
import torch
from torch import Tensor

from distill.student_forcing import StudentRollout, exit_step, student_rollout
from gwm.clip import teacher_forced_velocity
from gwm.condition.inputs import Condition
from gwm.dit import DiT
from gwm.schedule import clean_estimate
from tests.tiny import PATCHES, contract, latents, speech, tiny_dit

FRAMES = 5


def generator() -> torch.Generator:
    return torch.Generator().manual_seed(3)


def rollout(model: DiT, reference: Tensor, condition: Condition, gradient, **changes) -> StudentRollout:
    return student_rollout(
        model,
        contract(FRAMES, **changes),
        reference=reference,
        condition=condition,
        leave_at=1,
        gradient=gradient,
        generator=generator(),
        num_frames=FRAMES,
    )


def gradients(model: DiT, x0: Tensor) -> dict[str, Tensor]:
    model.zero_grad()
    torch.linspace(-1, 1, x0.numel()).view_as(x0).mul(x0).sum().backward()
    return {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}


def uncached(
    model: DiT, made: StudentRollout, reference: Tensor, condition: Condition, *, constant_past: bool
) -> Tensor:
    """x0 of the rollout from one masked pass; with `constant_past` the clean half's keys and values are constants."""
    clean = (FRAMES + 1) * PATCHES

    def hold(_module, _inputs, output: Tensor) -> Tensor:
        return torch.cat([output[:, :clean].detach(), output[:, clean:]], dim=1)

    hooks = []
    if constant_past:
        for block in model.blocks:
            hooks += [m.register_forward_hook(hold) for m in (block.attention.norm_k, block.attention.v)]
    x = made.x_exit.detach()
    sigma = x.new_full(x.shape[:2], made.sigma_exit)
    velocity = teacher_forced_velocity(
        model,
        x,
        sigma,
        history=made.x0.detach(),
        reference=reference,
        condition=condition,
        pattern=contract(FRAMES).pattern,
    )
    for hook in hooks:
        hook.remove()
    return clean_estimate(x, velocity, sigma)


@pytest.mark.parametrize(("gradient", "constant_past"), [("detach", True), ("recommit", False)])
def test_gradient_equals_the_one_without_a_cache(gradient, constant_past):
    model, reference, condition = tiny_dit(), latents(1), speech(FRAMES)
    made = rollout(model, reference, condition, gradient)
    cached = gradients(model, made.x0)
    oracle = gradients(model, uncached(model, made, reference, condition, constant_past=constant_past))
    assert cached.keys() == oracle.keys()
    for name in oracle:
        torch.testing.assert_close(cached[name], oracle[name], rtol=1e-3, atol=1e-4)


def test_the_past_matters_to_the_gradient():
    """Otherwise the test above could not tell detach from recommit."""
    model, reference, condition = tiny_dit(), latents(1), speech(FRAMES)
    detached = gradients(model, rollout(model, reference, condition, "detach").x0)
    recommitted = gradients(model, rollout(model, reference, condition, "recommit").x0)
    name = "blocks.0.attention.k.weight"
    assert (detached[name] - recommitted[name]).norm() > 0.05 * recommitted[name].norm()


def test_recommit_recovers_the_clip_of_the_first_pass():
    model, reference, condition = tiny_dit(), latents(1), speech(FRAMES)
    first = rollout(model, reference, condition, "none").x0
    torch.testing.assert_close(rollout(model, reference, condition, "recommit").x0, first, rtol=1e-4, atol=1e-4)


def test_no_gradient_when_none_is_asked():
    made = rollout(tiny_dit(), latents(1), speech(FRAMES), "none")
    assert not made.x0.requires_grad and torch.isfinite(made.x0).all()


def test_a_noisy_context_is_another_clip():
    model, reference, condition = tiny_dit(), latents(1), speech(FRAMES)
    clean, noisy = (rollout(model, reference, condition, "none", context=c).x0 for c in ("clean", "noisy"))
    assert torch.equal(clean[:, :1], noisy[:, :1])
    assert (clean[:, 1:] - noisy[:, 1:]).abs().max() > 1e-3


def test_exit_laws():
    assert exit_step("last", 4, generator()) == 3
    source = generator()
    drawn = [exit_step("uniform", 4, source) for _ in range(200)]
    assert set(drawn) == {0, 1, 2, 3} and min(drawn.count(k) for k in range(4)) > 25
    with pytest.raises((ValueError, TypeError), match="first"):
        exit_step("first", 4, generator())  # type: ignore[arg-type]
