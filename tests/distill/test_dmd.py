"""The DMD gradient against numbers worked out by hand, for every normaliser and both ways to write guidance."""

import pytest
import torch
from torch import Tensor

from distill.dmd import dmd_direction, dmd_loss, guided, normaliser_scale


def clips() -> tuple[Tensor, Tensor, Tensor]:
    return tuple(torch.randn(3, 4, 2, 3, 3) for _ in range(3))  # type: ignore[return-value]


def hand_scale(distance: Tensor, normaliser: str) -> Tensor:
    """The mean that each element is divided by, element by element."""
    scale = torch.empty_like(distance)
    for b in range(3):
        for f in range(4):
            chunk = slice(f // 2 * 2, f // 2 * 2 + 2)
            part = {"batch": distance, "sample": distance[b], "chunk": distance[b, chunk]}[normaliser]
            scale[b, f] = part.sum() / part.numel()
    return scale


@pytest.mark.parametrize("normaliser", ["sample", "chunk", "batch"])
def test_gradient_is_the_formula(normaliser):
    x0, teacher, critic = clips()
    x0.requires_grad_()
    direction = dmd_direction(x0, teacher, critic, normaliser=normaliser, chunk_frames=2, floor=1e-6)
    dmd_loss(x0, direction).backward()
    expected = (critic - teacher) / hand_scale((x0 - teacher).abs().detach(), normaliser) / x0.numel()
    torch.testing.assert_close(x0.grad, expected, rtol=1e-4, atol=1e-7)


def test_gradient_is_zero_when_critic_and_teacher_agree():
    x0, teacher, _ = clips()
    x0.requires_grad_()
    direction = dmd_direction(x0, teacher, teacher.clone(), normaliser="sample", chunk_frames=1, floor=1e-6)
    dmd_loss(x0, direction).backward()
    assert x0.grad is not None and not x0.grad.any()


def test_gradient_leads_from_critic_to_teacher():
    x0, teacher, _ = clips()
    x0.requires_grad_()
    direction = dmd_direction(x0, teacher, x0.detach().clone(), normaliser="sample", chunk_frames=1, floor=1e-6)
    dmd_loss(x0, direction).backward()
    assert x0.grad is not None
    moved = x0.detach() - 0.1 * x0.grad * x0.numel()
    assert (moved - teacher).abs().mean() < (x0 - teacher).abs().mean()


def test_the_floor_holds_where_student_and_teacher_meet():
    scale = normaliser_scale(torch.zeros(2, 2, 1, 1, 1), "sample", chunk_frames=1, floor=0.25)
    assert scale.flatten().tolist() == [0.25, 0.25]


def test_unknown_normaliser_is_named():
    with pytest.raises((ValueError, TypeError), match="frame"):
        normaliser_scale(torch.zeros(1, 1, 1, 1, 1), "frame", chunk_frames=1, floor=0.1)  # type: ignore[arg-type]


def test_guidance_is_standard_and_one_more_than_in_the_self_forcing_lineage():
    conditional, unconditional = torch.randn(2, 1, 1, 1, 2, 2)
    standard = unconditional + 4.0 * (conditional - unconditional)
    lineage = conditional + 3.0 * (conditional - unconditional)
    torch.testing.assert_close(guided(conditional, unconditional, 4.0), standard)
    torch.testing.assert_close(guided(conditional, unconditional, 4.0), lineage)
    assert torch.equal(guided(conditional, unconditional, 1.0), conditional)
