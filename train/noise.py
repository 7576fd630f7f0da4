"""Randomness of training: every draw of step k comes from (seed, k), so that a resumed run repeats it bit for bit.

What belongs to a sample comes from (seed, k, its place in the batch), so that it does not depend on how many devices
share the batch.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import TypeAlias

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float
from torch import Tensor

from data.batch import LatentBatch, PixelBatch
from gwm.chunks import ChunkPattern
from gwm.condition.inputs import Conditions
from gwm.condition.keyframes import with_keyframes
from gwm.config import DiTConfig
from gwm.schedule import shift_sigma

KEYFRAMES = 1  # stream of draws
Generators: TypeAlias = torch.Generator | Sequence[torch.Generator]  # of a whole batch, or of each of its samples


def step_generator(seed: int, step: int, device: torch.device) -> torch.Generator:
    """A generator that is equal on all devices, for what they must decide alike, such as the number of steps of a
    rollout."""
    return torch.Generator(device).manual_seed((seed * 1_000_003 + step) % 2**63)


def sample_generators(
    seed: int, batch: PixelBatch | LatentBatch, device: torch.device, *stream: int
) -> list[torch.Generator]:
    """A generator for each sample of a part of a batch. stream: numbers above 0, for draws that others do not shift."""
    slots = range(batch.first_slot, batch.first_slot + len(batch))
    # Hashed: torch's generator for CPUs looks at 32 bits of a seed, and neighbouring seeds start alike.
    keys = [np.random.SeedSequence((seed, batch.step, slot, *stream)).generate_state(1, np.uint64) for slot in slots]
    return [torch.Generator(device).manual_seed(int(key[0]) >> 1) for key in keys]


def gaussian_like(x: Tensor, generator: Generators) -> Tensor:
    return _drawn(torch.randn, x.shape, generator, x.device).to(x.dtype)


def uniform(shape: Sequence[int], generator: Generators, device: torch.device) -> Tensor:
    """Uniform numbers in [0, 1); samples come first."""
    return _drawn(torch.rand, shape, generator, device)


def _drawn(draw: Callable[..., Tensor], shape: Sequence[int], generator: Generators, device: torch.device) -> Tensor:
    if isinstance(generator, torch.Generator):
        return draw(tuple(shape), generator=generator, device=device)
    return torch.stack([draw(tuple(shape[1:]), generator=one, device=device) for one in generator])


def clip_sigmas(x0: Float[Tensor, "b f c h w"], *, shift: float, generator: Generators) -> Float[Tensor, "b f"]:
    """One noise level per clip, uniform and then shifted."""
    sigma = uniform((len(x0), 1), generator, x0.device)
    return shift_sigma(sigma, shift).expand(-1, x0.shape[1])


def chunk_sigmas(
    x0: Float[Tensor, "b f c h w"], pattern: ChunkPattern, *, shift: float, generator: Generators
) -> Float[Tensor, "b f"]:
    """One noise level per chunk of each clip; `x0` starts after the pattern's first frames."""
    num_chunks = x0.shape[1] // pattern.chunk_frames
    sigma = uniform((len(x0), num_chunks), generator, x0.device)
    return shift_sigma(sigma, shift).repeat_interleave(pattern.chunk_frames, dim=1)


def dropped(x0: Float[Tensor, "b f c h w"], chance: float, generator: Generators) -> Bool[Tensor, "b"]:
    """Which samples lose a condition, for guidance."""
    return uniform(x0.shape[:1], generator, x0.device) < chance


def without_some(
    condition: Conditions, x0: Float[Tensor, "b f c h w"], *, config: DiTConfig, generator: Generators
) -> Conditions:
    """Drop conditions at random, each sample and condition by the condition's own chance, so that the model learns all
    branches of guidance."""
    for spec in config.conditions:
        if spec.drop_rate:
            condition = condition.dropped(spec.name, dropped(x0, spec.drop_rate, generator))
    return condition


BEGINNINGS = 0.25  # of the samples: known from the first frame on, as clips that go on from a video


def drawn_known(x0: Float[Tensor, "b f c h w"], generator: Generators) -> Bool[Tensor, "b f"]:
    """Which frames of each sample are known: each with the sample's own chance, which is mostly small, so that two in
    five samples have at most two such frames and some have nearly all; or the beginning of any length."""
    num_frames = x0.shape[1]
    share, kind = uniform((len(x0), 2), generator, x0.device).split(1, dim=1)
    scattered = uniform(x0.shape[:2], generator, x0.device) < share**3
    beginning = torch.arange(num_frames, device=x0.device) < share * num_frames
    return torch.where(kind < BEGINNINGS, beginning, scattered)


def with_drawn_keyframes(batch: LatentBatch, *, config: DiTConfig, seed: int) -> LatentBatch:
    """The batch with keyframes among its conditions, where the model takes them. Other draws stay as they are."""
    if config.keyframes is None:
        return batch
    known = drawn_known(batch.x0, sample_generators(seed, batch, batch.x0.device, KEYFRAMES))
    return replace(batch, conditions=with_keyframes(batch.condition, config, batch.x0, known).flat())


@dataclass(frozen=True, kw_only=True)
class Corruption:
    """How much a model's past is degraded in comparison with data; each frame draws its own amounts."""

    noise: float = 0.0  # a noise level in [0, noise] is added
    exposure: float = 0.0  # a frame is scaled by a factor in 1 -+ exposure
    blur: float = 0.0  # up to this share of each cell is the mean of its neighbourhood


def corrupt(history: Float[Tensor, "b f c h w"], by: Corruption, generator: Generators) -> Float[Tensor, "b f c h w"]:
    """Degrade the clean past as a model's own past is, so that the model copes with its own errors."""
    if by == Corruption():
        return history
    level = by.noise * uniform(history.shape[:2], generator, history.device)
    noise = gaussian_like(history, generator)
    gain, share = (uniform((*history.shape[:2], 1, 1, 1), generator, history.device) for _ in range(2))
    soft = F.avg_pool2d(history.flatten(0, 1), 3, stride=1, padding=1, count_include_pad=False).view_as(history)
    worse = (1 + by.exposure * (2 * gain - 1)) * torch.lerp(history, soft, by.blur * share)
    return worse + level[..., None, None, None] * noise
