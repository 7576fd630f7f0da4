import math

import pytest
import torch
from torch import Tensor

from gwm.sampler import frame_noise, sample, step
from gwm.schedule import sigma_steps
from tests.tiny import latents

SIGMAS = (1.0, 0.7, 0.2)
FP32 = 1e-5


def test_ode_on_a_linear_field_is_eulers_product():
    rate, noise = 0.8, latents(3)
    made = sample(lambda x, sigma: rate * x, [noise], sigmas=SIGMAS, solver="ode")
    product = math.prod(1 + (after - before) * rate for before, after in zip(SIGMAS, (*SIGMAS[1:], 0.0), strict=True))
    torch.testing.assert_close(made, product * noise, rtol=FP32, atol=FP32)


@pytest.mark.parametrize("solver", ["ode", "renoise"])
def test_the_true_velocity_leads_to_the_clean_latents(solver: str):
    """Along the straight line Euler's method is exact; renoising never leaves x0."""
    x0 = latents(3)

    def velocity(x: Tensor, sigma: float) -> Tensor:
        return (x - x0) / sigma

    made = sample(velocity, [latents(3) for _ in SIGMAS], sigmas=SIGMAS, solver=solver)
    torch.testing.assert_close(made, x0, rtol=FP32, atol=FP32)


def test_unipc_is_diffusers_own_on_its_own_levels():
    """On a field that is not straight, so that its corrector matters."""
    from diffusers import UniPCMultistepScheduler

    noise, shift, count = latents(3), 3.0, 10
    theirs = UniPCMultistepScheduler(prediction_type="flow_prediction", use_flow_sigmas=True, flow_shift=shift)
    theirs.set_timesteps(count)
    x = noise
    for time in theirs.timesteps:
        x = theirs.step(torch.tanh(x) * (time / 1000), time, x).prev_sample
    levels = sigma_steps(count, shift=shift, end=1 / 1000)
    made = sample(lambda x, sigma: torch.tanh(x) * sigma, [noise], sigmas=levels, solver="unipc")
    torch.testing.assert_close(made, x, rtol=FP32, atol=FP32)


def test_unipc_is_nearer_to_the_true_end_than_euler_in_as_many_steps():
    """Of a Gaussian of deviation 0.5 around 0, whose flow is known: x at 0 is half of x at 1."""

    def velocity(x: Tensor, sigma: float) -> Tensor:
        variance = (1 - sigma) ** 2 * 0.25 + sigma**2
        return x * (sigma - (1 - sigma) * 0.25) / variance

    noise, errors = latents(3), {}
    for solver, end in (("ode", 0.0), ("unipc", 1 / 1000)):
        made = sample(velocity, [noise], sigmas=sigma_steps(10, shift=1.0, end=end), solver=solver)
        errors[solver] = float((made - 0.5 * noise).abs().max())
    assert errors["unipc"] < 0.3 * errors["ode"]


def test_a_single_step_of_unipc_is_refused():
    x = latents(3)
    with pytest.raises(ValueError, match="solver=unipc must be ode or renoise"):
        step(x, x, sigma=1.0, sigma_next=0.5, solver="unipc", noise=x)


def test_renoise_goes_back_up_with_the_noise_of_its_step():
    x0, noises, seen = latents(3), [latents(3) for _ in SIGMAS], []

    def velocity(x: Tensor, sigma: float) -> Tensor:
        seen.append((x, sigma))
        return (x - x0) / sigma

    sample(velocity, noises, sigmas=SIGMAS, solver="renoise")
    for (x, level), sigma, noise in zip(seen, SIGMAS, noises, strict=True):
        assert level == sigma
        torch.testing.assert_close(x, (1 - sigma) * x0 + sigma * noise, rtol=FP32, atol=FP32)


def test_frame_noise_depends_on_its_arguments_and_nothing_else():
    shape, key = (1, 1, 4, 4, 4), {"seed": 3, "frame": 100_000, "step": 1}
    first = frame_noise(shape, **key)
    torch.randn(7)
    frame_noise(shape, **(key | {"frame": 5}))
    assert torch.equal(frame_noise(shape, **key), first)


def test_frame_noise_leaves_the_global_generator_alone():
    state = torch.get_rng_state()
    frame_noise((1, 1, 4, 4, 4), seed=3, frame=100_000, step=1)
    assert torch.equal(torch.get_rng_state(), state)


def test_frame_noise_differs_in_every_argument_and_is_gaussian():
    shape = (1, 1, 16, 32, 32)
    draws = [
        frame_noise(shape, seed=seed, frame=frame, step=step)
        for seed in (0, 1)
        for frame in (0, 1, 100_000)
        for step in (0, 1)
    ]
    stacked = torch.stack(draws).flatten(1)
    correlation = torch.corrcoef(stacked) - torch.eye(len(draws))
    assert correlation.abs().max() < 5 / stacked.shape[1] ** 0.5
    assert stacked.mean().abs() < 0.01
    assert (stacked.std() - 1).abs() < 0.01
