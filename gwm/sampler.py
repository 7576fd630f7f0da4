"""From noise to latents: one denoising step, a whole clip, and the noise that trainer and server share."""

from collections.abc import Callable, Sequence

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from gwm.contract import Solver
from gwm.optional import optional_module
from kernels.step_update import step_update

COMMAND = "pip install 'gwm[wan]'"  # diffusers
TIMES = 1000  # whole noise levels of Wan's training, which diffusers rounds down to
Velocity = Callable[[Float[Tensor, "b f c h w"], float], Float[Tensor, "b f c h w"]]  # of latents at a noise level
Sampler = Callable[..., Float[Tensor, "b f c h w"]]  # with the arguments of `sample`


def frame_noise(shape: Sequence[int], *, seed: int, frame: int, step: int) -> Float[Tensor, "b f c h w"]:
    """Gaussian noise that depends on nothing but its arguments: the seed, the chunk's first latent frame, the step.

    Drawn on the CPU, so that every device and every order of sessions sees the same numbers.
    """
    key = (seed * 1_000_003 + frame) * 1_009 + step
    generator = torch.Generator().manual_seed(key % 2**63)
    return torch.randn(tuple(shape), generator=generator)


def step(
    x: Float[Tensor, "b f c h w"],
    velocity: Float[Tensor, "b f c h w"],
    *,
    sigma: float,
    sigma_next: float,
    solver: Solver,
    noise: Float[Tensor, "b f c h w"] | None,
) -> Float[Tensor, "b f c h w"]:
    """Move from `sigma` to `sigma_next`: along the velocity (ode), or to x0 and back with fresh `noise` (renoise).

    Raises:
        ValueError: a solver whose step needs the steps before it.
    """
    if solver == "ode":
        return x + (sigma_next - sigma) * velocity
    if solver != "renoise":
        raise ValueError(f"solver={solver} must be ode or renoise: a single step has no steps before it.")
    return step_update(x, velocity, noise, sigma=sigma, sigma_next=sigma_next)


def sample(
    velocity: Velocity,
    noises: Sequence[Float[Tensor, "b f c h w"]],
    *,
    sigmas: Sequence[float],
    solver: Solver,
) -> Float[Tensor, "b f c h w"]:
    """Run all steps of `sigmas` and the last one to 0. `noises[k]` is used before step k; others than renoise use only
    the first.

    Raises:
        MissingPackageError: unipc without diffusers.
    """
    x = noises[0]
    if solver == "unipc":
        return _unipc(velocity, x, sigmas)
    for k, (sigma, sigma_next) in enumerate(zip(sigmas, [*sigmas[1:], 0.0], strict=True)):
        fresh = noises[k + 1] if solver == "renoise" and sigma_next > 0 else None
        x = step(x, velocity(x, sigma), sigma=sigma, sigma_next=sigma_next, solver=solver, noise=fresh)
    return x


def _unipc(velocity: Velocity, x: Float[Tensor, "b f c h w"], sigmas: Sequence[float]) -> Float[Tensor, "b f c h w"]:
    """diffusers' UniPC of order 2 (bh2) on predictions of x0, as the published Wan pipelines are sampled: each new
    prediction first corrects the step that led to it. As there, the network sees levels in whole thousandths.

    Source: Zhao et al. 2023, arXiv:2302.04867.
    """
    unipc = optional_module("diffusers", COMMAND).UniPCMultistepScheduler
    scheduler = unipc(prediction_type="flow_prediction", use_flow_sigmas=True, num_train_timesteps=TIMES)
    scheduler.set_timesteps(sigmas=np.array(sigmas))
    scheduler.set_begin_index(0)
    for time in scheduler.timesteps.tolist():
        x = scheduler.step(velocity(x, time / TIMES), time, x, return_dict=False)[0]
    return x
