import pytest
import torch

from gwm.schedule import add_noise, check_sigmas, clean_estimate, shift_sigma, sigma_steps
from tests.tiny import latents


def test_noised_latents_lie_on_the_straight_line_at_each_frames_level():
    x0, noise, sigma = latents(3), latents(3), torch.rand(2, 3)
    x = add_noise(x0, noise, sigma)
    for b in range(2):
        for f in range(3):
            expected = (1 - sigma[b, f]) * x0[b, f] + sigma[b, f] * noise[b, f]
            torch.testing.assert_close(x[b, f], expected, rtol=1e-6, atol=1e-6)


def test_the_true_velocity_points_to_the_clean_latents():
    x0, noise, sigma = latents(3), latents(3), torch.rand(2, 3)
    estimate = clean_estimate(add_noise(x0, noise, sigma), noise - x0, sigma)
    torch.testing.assert_close(estimate, x0, rtol=1e-5, atol=1e-5)


def test_shift_is_the_formula_and_keeps_the_ends():
    sigma = torch.tensor([0.0, 0.25, 0.5, 1.0], dtype=torch.float64)
    assert shift_sigma(sigma, 3.0).tolist() == pytest.approx([0.0, 0.5, 0.75, 1.0])
    assert torch.equal(shift_sigma(sigma, 1.0), sigma)


@pytest.mark.parametrize(("num_steps", "shift"), [(1, 1.0), (4, 2.0), (16, 5.0)])
def test_steps_fall_evenly_from_one_and_stop_before_zero(num_steps: int, shift: float):
    even = [1 - k / num_steps for k in range(num_steps)]
    assert sigma_steps(num_steps, shift=shift) == pytest.approx([shift * s / (1 + (shift - 1) * s) for s in even])


def test_no_steps_are_an_error():
    with pytest.raises(ValueError, match="num_steps=0 must be >= 1"):
        sigma_steps(0, shift=1.0)


@pytest.mark.parametrize("sigmas", [(), (0.9, 0.5), (1.0, 0.5, 0.5), (1.0, 0.3, 0.6), (1.0, 0.0), (1000.0, 500.0)])
def test_impossible_levels_are_an_error(sigmas: tuple[float, ...]):
    with pytest.raises(ValueError, match=r"must start at 1\.0 and fall strictly"):
        check_sigmas(sigmas)
