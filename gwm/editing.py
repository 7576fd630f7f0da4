"""Edits of known latents by a flow model, without training: parts of them drawn anew, or all of them moved from what
one condition describes to what another does. Both are samplers, as `gwm.sampler.sample` is."""

from collections.abc import Sequence
from itertools import pairwise

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float
from torch import Tensor

from gwm.contract import Solver
from gwm.sampler import Velocity, sample, step


def drawn_cells(
    drawn: Bool[np.ndarray, "t h w"], *, space: int, time: int, single: bool, grow: int = 1
) -> Bool[Tensor, "1 f 1 i j"]:
    """Latent cells that hold at least one pixel to be drawn anew, and `grow` more around them in space, as an encoder
    sees beyond its cell.

    Args:
        single: the first latent frame is one pixel frame alone, as in Wan.

    Raises:
        ValueError: sides or frames that cannot be divided into cells.
    """
    frames, height, width = drawn.shape
    if (frames - single) % time or height % space or width % space:
        raise ValueError(
            f"drawn has {frames} frames of {height}x{width} px, must have {'1 plus ' if single else ''}a multiple of "
            f"{time} frames, and sides that are multiples of {space}."
        )
    x = torch.from_numpy(drawn).float()
    x = torch.cat([x[:1].expand(time, -1, -1), x[1:]]) if single else x
    cells = F.max_pool3d(x[None], (time, space, space))
    if grow:
        cells = F.max_pool3d(cells, (1, 2 * grow + 1, 2 * grow + 1), stride=1, padding=(0, grow, grow))
    return cells[0, None, :, None] > 0


def inpaint(
    velocity: Velocity,
    noises: Sequence[Float[Tensor, "b f c h w"]],
    *,
    sigmas: Sequence[float],
    solver: Solver,
    x0: Float[Tensor, "b f c h w"],
    drawn: Bool[Tensor, "b f 1 h w"],
    rounds: int = 1,
) -> Float[Tensor, "b f c h w"]:
    """Latents that are `x0` where they are not `drawn`, and elsewhere what the model thinks belongs there. At each
    level, before the network looks, what is known takes the place of what was made there:

        x <- drawn x + (1 - drawn) ((1 - sigma) x0 + sigma noise)

    With `rounds` above 1 each Euler step from sigma to sigma' is taken so often; in between the latents go back, so
    that both parts can agree:  x <- a x + sqrt(sigma^2 - a^2 sigma'^2) noise,  a = (1 - sigma) / (1 - sigma').

    Source: Lugmayr et al. 2022, arXiv:2201.09865, Eq. 8 and Algorithm 1; here along straight lines.

    Raises:
        ValueError: rounds below 1, or above 1 with a solver that is not ode.
    """
    if rounds < 1 or (rounds > 1 and solver != "ode"):
        raise ValueError(f"rounds={rounds} must be 1, or more with Euler steps: solver={solver}. Set sampler=euler.")
    if not drawn.any():
        return x0

    def with_known(x: Tensor, sigma: float) -> Tensor:
        return torch.where(drawn, x, torch.lerp(x0, noises[0], sigma))

    if rounds == 1:  # what a solver makes of the known cells is never looked at
        x = sample(lambda x, sigma: velocity(with_known(x, sigma), sigma), noises, sigmas=sigmas, solver=solver)
        return torch.where(drawn, x, x0)
    x, generator = noises[0], torch.Generator().manual_seed(0)
    for sigma, after in pairwise([*sigmas, 0.0]):
        for round in range(rounds):
            if round:
                a = (1 - sigma) / (1 - after)
                x = a * x + (sigma**2 - a**2 * after**2) ** 0.5 * _gaussian(x, generator)
            x = with_known(x, sigma)
            x = step(x, velocity(x, sigma), sigma=sigma, sigma_next=after, solver=solver, noise=None)
    return torch.where(drawn, x, x0)


def flow_edit(
    source: Velocity,
    target: Velocity,
    x0: Float[Tensor, "b f c h w"],
    *,
    sigmas: Sequence[float],
    drawn: Bool[Tensor, "b f 1 h w"],
    strength: float,
    draws: int,
    seed: int,
) -> Float[Tensor, "b f c h w"]:
    """`x0` moved from what the condition of `source` describes to what that of `target` does. From z = x0, at each of
    the last levels of `sigmas`, `strength` of them, with fresh noise:

        z_source = (1 - sigma) x0 + sigma noise
        z_target = z + z_source - x0
        z <- z + (sigma' - sigma) mean over `draws` of [v_target(z_target, sigma) - v_source(z_source, sigma)]

    Equal conditions change nothing, and no path leads through noise: what both describe alike stays. Cells that are not
    `drawn` stay x0.

    Source: Kulikov et al. 2024, arXiv:2412.08629, Algorithm 1, with n_min = 0 and n_max = strength len(sigmas).

    Raises:
        ValueError: strength outside (0, 1], or draws below 1.
    """
    if not 0 < strength <= 1 or draws < 1:
        raise ValueError(f"strength={strength:g} must be in (0, 1], and draws={draws} at least 1.")
    if not drawn.any():
        return x0
    skipped = len(sigmas) - max(1, round(strength * len(sigmas)))
    z, generator = x0, torch.Generator().manual_seed(seed)
    for sigma, after in pairwise([*sigmas, 0.0][skipped:]):
        change = torch.zeros_like(z)
        for _ in range(draws):
            noised = torch.lerp(x0, _gaussian(x0, generator), sigma)
            change += target(z + noised - x0, sigma) - source(noised, sigma)
        z = torch.where(drawn, z + (after - sigma) / draws * change, x0)
    return z


def _gaussian(like: Tensor, generator: torch.Generator) -> Tensor:
    return torch.randn(like.shape, generator=generator).to(like)
