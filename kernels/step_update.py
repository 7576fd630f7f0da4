"""K6: what a denoising step does after the network: to the clean estimate, and back up with fresh noise."""

import torch
from jaxtyping import Float
from torch import Tensor

from kernels.dispatch import choose, constexpr, kernel, tl

Latents = Float[Tensor, "b f c h w"]
BLOCK = 1024


def step_update(x: Latents, velocity: Latents, noise: Latents | None, *, sigma: float, sigma_next: float) -> Latents:
    """x0 = x - sigma velocity; then (1 - sigma_next) x0 + sigma_next noise, or x0 itself without noise."""
    form = choose("step_update", x, step_update_reference, step_update_triton)
    return form(x, velocity, noise, sigma, sigma_next)


def step_update_reference(
    x: Latents, velocity: Latents, noise: Latents | None, sigma: float, sigma_next: float
) -> Latents:
    # In float32 up to the last line, as where levels enter the network and as the kernel.
    levels = x.new_full((*x.shape[:2], 1, 1, 1), sigma, dtype=torch.promote_types(x.dtype, torch.float32))
    x0 = x - levels * velocity
    if noise is not None:
        x0 = torch.lerp(x0, noise.to(x0.dtype), levels.fill_(sigma_next))
    return x0.to(x.dtype)


@kernel
def _step_update(
    x_ptr, velocity_ptr, noise_ptr, out_ptr, sigma, sigma_next, count, HAS_NOISE: constexpr, BLOCK: constexpr
):
    at = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    inside = at < count
    x = tl.load(x_ptr + at, mask=inside).to(tl.float32)
    x0 = x - sigma * tl.load(velocity_ptr + at, mask=inside).to(tl.float32)
    if HAS_NOISE:
        x0 += sigma_next * (tl.load(noise_ptr + at, mask=inside).to(tl.float32) - x0)
    tl.store(out_ptr + at, x0.to(out_ptr.dtype.element_ty), mask=inside)


def step_update_triton(
    x: Latents, velocity: Latents, noise: Latents | None, sigma: float, sigma_next: float
) -> Latents:
    x, velocity = x.contiguous(), velocity.contiguous()
    fresh = x if noise is None else noise.contiguous()
    out, count = torch.empty_like(x), x.numel()
    has_noise = noise is not None
    grid = (-(-count // BLOCK),)
    # Levels are floats: integers would be compiled into the kernel.
    levels = (float(sigma), float(sigma_next))
    _step_update[grid](x, velocity, fresh, out, *levels, count, HAS_NOISE=has_noise, BLOCK=BLOCK, num_warps=4)
    return out
