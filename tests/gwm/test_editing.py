import numpy as np
import pytest
import torch
from torch import Tensor

from gwm.editing import drawn_cells, flow_edit, inpaint
from gwm.schedule import sigma_steps
from tests.tiny import latents

LEVELS = sigma_steps(20, shift=1.0)
FP32 = 1e-4


def gaussian(mean: Tensor, deviation: float):
    """The exact velocity of a Gaussian: E[noise - x0 | x] on the straight line."""

    def velocity(x: Tensor, sigma: float) -> Tensor:
        variance = (1 - sigma) ** 2 * deviation**2 + sigma**2
        away = x - (1 - sigma) * mean
        return (sigma - (1 - sigma) * deviation**2) / variance * away - mean

    return velocity


def left_half(x: Tensor) -> Tensor:
    drawn = torch.zeros_like(x[:, :, :1], dtype=torch.bool)
    drawn[..., : x.shape[-1] // 2] = True
    return drawn


@pytest.mark.parametrize("solver", ["ode", "unipc", "renoise"])
def test_what_is_not_drawn_is_known_to_the_bit_and_seen_at_every_level(solver: str):
    x0, noises = latents(3), [latents(3) for _ in LEVELS]
    drawn, seen = left_half(x0), []

    def velocity(x: Tensor, sigma: float) -> Tensor:
        seen.append((x, sigma))
        return x - 2

    made = inpaint(velocity, noises, sigmas=LEVELS, solver=solver, x0=x0, drawn=drawn)
    known = ~drawn.expand_as(x0)
    assert torch.equal(made[known], x0[known]) and not torch.isclose(made[~known], x0[~known]).any()
    assert len(seen) == len(LEVELS)
    for x, sigma in seen:
        torch.testing.assert_close(x[known], torch.lerp(x0, noises[0], sigma)[known], rtol=FP32, atol=FP32)


def correlated(x: Tensor, sigma: float) -> Tensor:
    """The exact velocity of pictures whose halves are equal: a and b are one Gaussian number g in every place."""
    a, b = x.chunk(2, dim=-1)
    clean = (1 - sigma) * (a + b) / (2 * (1 - sigma) ** 2 + sigma**2)  # E[g | a, b]
    noise = [(half - (1 - sigma) * clean) / max(sigma, 1e-6) for half in (a, b)]
    return torch.cat([part - clean for part in noise], dim=-1)


def test_what_is_drawn_agrees_with_what_is_known_and_more_so_in_more_rounds():
    """Halves that must be equal: what is drawn follows the known half, and rounds bring it nearer."""
    x0 = torch.randn(1, 3, 4, 8, 8, generator=torch.Generator().manual_seed(1))
    noise = torch.randn(x0.shape, generator=torch.Generator().manual_seed(2))
    known, errors = x0.chunk(2, dim=-1)[1], {}
    for rounds in (1, 5):
        made = inpaint(correlated, [noise], sigmas=LEVELS, solver="ode", x0=x0, drawn=left_half(x0), rounds=rounds)
        errors[rounds] = float((made.chunk(2, dim=-1)[0] - known).square().mean())
    assert errors[1] < 0.5 and errors[5] < 0.5 * errors[1]


def test_rounds_leave_the_distribution_as_it_is():
    """Of a Gaussian of mean 3 and deviation 0.5: going back adds exactly the noise that a step took away."""
    x0 = torch.zeros(1, 4, 8, 16, 16)
    noise = torch.randn(x0.shape, generator=torch.Generator().manual_seed(2))
    drawn = torch.ones_like(x0[:, :, :1], dtype=torch.bool)
    field = gaussian(torch.full_like(x0, 3.0), 0.5)
    made = inpaint(field, [noise], sigmas=sigma_steps(50, shift=1.0), solver="ode", x0=x0, drawn=drawn, rounds=3)
    assert made.mean().item() == pytest.approx(3, abs=0.02) and made.std().item() == pytest.approx(0.5, abs=0.03)


def test_nothing_to_draw_asks_the_network_for_nothing():
    x0 = latents(3)
    drawn = torch.zeros_like(x0[:, :, :1], dtype=torch.bool)

    def never(x: Tensor, sigma: float) -> Tensor:
        raise AssertionError("asked")

    assert inpaint(never, [x0], sigmas=LEVELS, solver="ode", x0=x0, drawn=drawn) is x0
    assert flow_edit(never, never, x0, sigmas=LEVELS, drawn=drawn, strength=1.0, draws=1, seed=0) is x0


@pytest.mark.parametrize(("rounds", "solver"), [(0, "ode"), (2, "unipc")])
def test_impossible_rounds_are_refused(rounds: int, solver: str):
    x = latents(3)
    with pytest.raises(ValueError, match=f"rounds={rounds} must be 1, or more with Euler steps"):
        inpaint(gaussian(x, 1.0), [x], sigmas=LEVELS, solver=solver, x0=x, drawn=left_half(x), rounds=rounds)


@pytest.mark.parametrize("strength", [0.5, 1.0])
def test_flow_edit_moves_one_gaussian_onto_another(strength: float):
    """Of equal spread: every sample moves by the difference of the means. With the first levels left out it moves less,
    by the part of the way that is left: known in closed form as a product of Euler's steps."""
    before, after = latents(3), latents(3)
    x0 = before + 0.3 * latents(3)
    drawn = left_half(x0)
    fields = gaussian(before, 0.3), gaussian(after, 0.3)
    made = flow_edit(*fields, x0, sigmas=LEVELS, drawn=drawn, strength=strength, draws=2, seed=0)
    used = LEVELS[len(LEVELS) - round(strength * len(LEVELS)) :]
    moved = 0.0  # share of the way; the rest of the way is what the difference of both velocities sees
    for sigma, after_sigma in zip(used, [*used[1:], 0.0], strict=True):
        rate = (sigma - (1 - sigma) * 0.09) / ((1 - sigma) ** 2 * 0.09 + sigma**2)
        moved += (after_sigma - sigma) * (rate * (moved - (1 - sigma)) - 1)
    torch.testing.assert_close(made, torch.where(drawn, x0 + moved * (after - before), x0), rtol=FP32, atol=FP32)
    assert moved > 0.9 if strength == 1 else 0.1 < moved < 0.9


def test_flow_edit_between_equal_conditions_changes_nothing():
    x0, field = latents(3), gaussian(latents(3), 0.5)
    made = flow_edit(field, field, x0, sigmas=LEVELS, drawn=left_half(x0), strength=1.0, draws=1, seed=0)
    torch.testing.assert_close(made, x0, rtol=FP32, atol=FP32)


@pytest.mark.parametrize(("strength", "draws"), [(0.0, 1), (1.5, 1), (0.5, 0)])
def test_impossible_strength_is_refused(strength: float, draws: int):
    x, field = latents(3), gaussian(latents(3), 0.5)
    with pytest.raises(ValueError, match=r"strength=.* must be in"):
        flow_edit(field, field, x, sigmas=LEVELS, drawn=left_half(x), strength=strength, draws=draws, seed=0)


def test_a_cell_is_drawn_when_one_of_its_pixels_is():
    drawn = np.zeros((9, 16, 24), bool)
    drawn[5, 9, 17] = True  # third latent frame of 1 + 4 + 4, second row, third column
    cells = drawn_cells(drawn, space=8, time=4, single=True, grow=0)
    assert cells.shape == (1, 3, 1, 2, 3) and cells.sum() == 1 and cells[0, 2, 0, 1, 2]
    assert drawn_cells(drawn, space=8, time=4, single=True).sum() == 4  # and its neighbours
    assert drawn_cells(drawn[1:], space=8, time=4, single=False, grow=0).nonzero().tolist() == [[0, 1, 0, 1, 2]]
    with pytest.raises(ValueError, match="drawn has 9 frames of 16x24 px, must have a multiple of 4 frames"):
        drawn_cells(drawn, space=8, time=4, single=False)
