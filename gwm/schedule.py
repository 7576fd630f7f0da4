"""Flow matching along straight lines: the only time variable is `sigma` in [0, 1], 0 clean and 1 pure noise."""

import itertools

import torch
from jaxtyping import Float
from torch import Tensor


def add_noise(
    x0: Float[Tensor, "b f c h w"], noise: Float[Tensor, "b f c h w"], sigma: Float[Tensor, "b f"]
) -> Float[Tensor, "b f c h w"]:
    """Straight-line interpolant x = (1 - sigma) x0 + sigma noise; its velocity along sigma is noise - x0.

    Source: Lipman et al. 2023, arXiv:2210.02747, Sec. 4.1; time reversed to match Wan 2.1.
    """
    return torch.lerp(x0, noise, sigma[..., None, None, None])


def clean_estimate(
    x: Float[Tensor, "b f c h w"], velocity: Float[Tensor, "b f c h w"], sigma: Float[Tensor, "b f"]
) -> Float[Tensor, "b f c h w"]:
    """The x0 that `velocity` points to from `x`: x - sigma velocity."""
    return x - sigma[..., None, None, None] * velocity


def shift_sigma(sigma: Float[Tensor, "..."], shift: float) -> Float[Tensor, "..."]:
    """Move noise levels towards 1 for shift > 1; keeps 0 and 1 fixed.

    Source: Esser et al. 2024, arXiv:2403.03206, Eq. 23.
    """
    return shift * sigma / (1 + (shift - 1) * sigma)


def sigma_steps(num_steps: int, *, shift: float, end: float = 0.0) -> list[float]:
    """Noise levels of a sampler with `num_steps` steps: evenly from 1 towards `end`, shifted, without the last of them,
    which is the final 0."""
    if num_steps < 1:
        raise ValueError(f"num_steps={num_steps} must be >= 1.")
    levels = torch.linspace(1, end, num_steps + 1, dtype=torch.float64)[:-1]
    return shift_sigma(levels, shift).tolist()


def check_sigmas(sigmas: tuple[float, ...]) -> None:
    """Refuse final noise levels that a sampler cannot step through.

    Raises:
        ValueError: the list does not start at 1, does not fall strictly, or reaches 0 (the sampler adds that itself).
    """
    falling = all(a > b for a, b in itertools.pairwise(sigmas))
    if not sigmas or sigmas[0] != 1.0 or not falling or sigmas[-1] <= 0:
        raise ValueError(
            f"sigmas={sigmas} must start at 1.0 and fall strictly, staying above 0: they are final noise levels in "
            "(0, 1], already shifted, without the trailing 0 and not on a 0..1000 scale."
        )
