"""Randomness of training: every draw of step k comes from (seed, k), so that a resumed run repeats it bit for bit."""

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from gwm.chunks import ChunkPattern
from gwm.schedule import shift_sigma


def step_generator(seed: int, step: int, device: torch.device) -> torch.Generator:
    return torch.Generator(device).manual_seed((seed * 1_000_003 + step) % 2**63)


def gaussian_like(x: Tensor, generator: torch.Generator) -> Tensor:
    return torch.randn(x.shape, generator=generator, device=x.device, dtype=x.dtype)


def clip_sigmas(x0: Float[Tensor, "b f c h w"], *, shift: float, generator: torch.Generator) -> Float[Tensor, "b f"]:
    """One noise level per clip, uniform and then shifted."""
    sigma = torch.rand(len(x0), 1, generator=generator, device=x0.device)
    return shift_sigma(sigma, shift).expand(-1, x0.shape[1])


def chunk_sigmas(
    x0: Float[Tensor, "b f c h w"], pattern: ChunkPattern, *, shift: float, generator: torch.Generator
) -> Float[Tensor, "b f"]:
    """One noise level per chunk of each clip; `x0` starts after the pattern's first frames."""
    num_chunks = x0.shape[1] // pattern.chunk_frames
    sigma = torch.rand(len(x0), num_chunks, generator=generator, device=x0.device)
    return shift_sigma(sigma, shift).repeat_interleave(pattern.chunk_frames, dim=1)


def dropped(batch_size: int, chance: float, generator: torch.Generator) -> Bool[Tensor, "b"]:
    """Which samples lose a condition, for guidance."""
    return torch.rand(batch_size, generator=generator, device=generator.device) < chance


def corrupt(history: Float[Tensor, "b f c h w"], most: float, generator: torch.Generator) -> Float[Tensor, "b f c h w"]:
    """Noise of a random level in [0, most] per frame on the history, so that a model survives its own mistakes."""
    if most == 0:
        return history
    level = most * torch.rand(history.shape[:2], generator=generator, device=history.device)
    return history + level[..., None, None, None] * gaussian_like(history, generator)
