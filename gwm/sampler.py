"""From noise to latents: one denoising step, a whole clip, and the noise that trainer and server share."""

from collections.abc import Callable, Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from gwm.contract import Solver
from kernels.step_update import step_update

Velocity = Callable[[Float[Tensor, "b f c h w"], float], Float[Tensor, "b f c h w"]]  # of latents at a noise level


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
    """Move from `sigma` to `sigma_next`: along the velocity (ode), or to x0 and back with fresh `noise` (renoise)."""
    if solver == "ode":
        return x + (sigma_next - sigma) * velocity
    return step_update(x, velocity, noise, sigma=sigma, sigma_next=sigma_next)


def sample(
    velocity: Velocity,
    noises: Sequence[Float[Tensor, "b f c h w"]],
    *,
    sigmas: Sequence[float],
    solver: Solver,
) -> Float[Tensor, "b f c h w"]:
    """Run all steps of `sigmas` and the last one to 0. `noises[k]` is used before step k; ode uses only the first."""
    x = noises[0]
    for k, (sigma, sigma_next) in enumerate(zip(sigmas, [*sigmas[1:], 0.0], strict=True)):
        fresh = noises[k + 1] if solver == "renoise" and sigma_next > 0 else None
        x = step(x, velocity(x, sigma), sigma=sigma, sigma_next=sigma_next, solver=solver, noise=fresh)
    return x
