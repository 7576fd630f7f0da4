"""gwm's DiT is the published transformer: against diffusers, for every family, with every way to see the past."""

import copy
from typing import Any

import numpy as np
import pytest
import torch

from gwm.block import MaskedClip
from gwm.cache import PastChunks, RingCache
from gwm.chunks import ChunkPattern, whole_clip
from gwm.clip import teacher_forcing_mask
from gwm.condition.inputs import Conditions
from gwm.dit import DiT
from tests.tiny import FAR
from tests.wan import FAMILIES, PATCHES, family_clip, in_diffusers, in_gwm, our_velocity, reduced, their_velocity

FP32 = 1e-5
RELATIVE = 1e-6  # of the largest velocity; 3e-7 to 5e-7 were measured, on a CPU
BF16 = 2e-2
FRAMES = 5
PATTERN = ChunkPattern(chunk_frames=2, window_chunks=2, sink_chunks=1, first_frames=1)


@pytest.fixture(scope="module", params=FAMILIES)
def pair(request: pytest.FixtureRequest) -> tuple[Any, DiT]:
    """A family's transformer in diffusers and in gwm."""
    config = reduced(request.param)
    theirs = in_diffusers(config)
    return theirs, in_gwm(theirs, config)


@torch.no_grad()
def test_fp32_is_diffusers(pair: tuple[Any, DiT]):
    theirs, ours = pair
    clip = family_clip(ours.config, FRAMES)
    expected = their_velocity(theirs, clip)
    assert expected.std() > 0.1  # a comparison of near zeros would prove nothing
    torch.testing.assert_close(our_velocity(ours, clip), expected, rtol=0, atol=FP32)


@torch.no_grad()
def test_bf16_is_diffusers(pair: tuple[Any, DiT]):
    theirs, ours = pair
    x, sigma, condition = family_clip(ours.config, FRAMES)
    clip = x.bfloat16(), sigma, condition.map(torch.Tensor.bfloat16)
    expected = their_velocity(copy.deepcopy(theirs).bfloat16(), clip)
    made = our_velocity(copy.deepcopy(ours).bfloat16(), clip)
    assert made.dtype == expected.dtype == torch.bfloat16
    torch.testing.assert_close(made.float(), expected.float(), rtol=0, atol=BF16)


@torch.no_grad()
def test_noise_levels_per_frame_are_diffusers_per_token_timesteps(pair: tuple[Any, DiT]):
    """Wan 2.2 TI2V gives the tokens of the image's frame timestep 0; the same code path serves diffusion forcing."""
    theirs, ours = pair
    x, _, condition = family_clip(ours.config, FRAMES)
    sigma = torch.tensor([0.0, 0.25, 0.5, 0.75, 1.0]).expand(2, -1)
    expected = their_velocity(theirs, (x, sigma, condition))
    torch.testing.assert_close(our_velocity(ours, (x, sigma, condition)), expected, rtol=0, atol=FP32)


class OriginalSinusoid(torch.nn.Module):
    """Source: Wan2.1 wan/modules/model.py, sinusoidal_embedding_1d: in float64, here by NumPy."""

    def forward(self, timestep: torch.Tensor) -> torch.Tensor:
        half = 128
        angle = timestep.double().numpy()[:, None] * np.power(10_000.0, -np.arange(half) / half)
        return torch.from_numpy(np.concatenate([np.cos(angle), np.sin(angle)], axis=1))


@pytest.mark.parametrize("per_frame", [False, True])
@torch.no_grad()
def test_any_noise_level_is_the_original_release(pair: tuple[Any, DiT], per_frame: bool):
    """At levels that are no binary fraction, diffusers' own sinusoid, in float32, is the larger error: it is 6e-7 to
    2e-6 of the largest velocity away from the original release's."""
    theirs, ours = copy.copy(pair[0]), pair[1]
    theirs._modules = theirs._modules | {"condition_embedder": copy.copy(theirs.condition_embedder)}
    embedder = theirs.condition_embedder
    embedder._modules = embedder._modules | {"timesteps_proj": OriginalSinusoid()}
    x, _, condition = family_clip(ours.config, FRAMES)
    sigma = torch.rand(2, FRAMES) if per_frame else torch.rand(2, 1).expand(2, FRAMES)
    expected = their_velocity(theirs, (x, sigma.double(), condition))
    error = relative_error(our_velocity(ours, (x, sigma, condition)), expected)
    assert error < RELATIVE


def relative_error(made: torch.Tensor, expected: torch.Tensor) -> float:
    """The largest difference, as a share of the largest value."""
    return float((made - expected).abs().max() / expected.abs().max())


@torch.no_grad()
def test_full_window_makes_the_causal_model_its_bidirectional_parent(pair: tuple[Any, DiT]):
    theirs, ours = pair
    clip = family_clip(ours.config, FRAMES)
    causal = our_velocity(ours, clip, whole_clip(FRAMES, first_frames=0))
    torch.testing.assert_close(causal, their_velocity(theirs, clip), rtol=0, atol=FP32)


@torch.no_grad()
def test_teacher_forced_equals_cached(pair: tuple[Any, DiT]):
    """Each noised chunk after the clean past: in one masked pass, over a ring, and over past chunks."""
    ours = pair[1]
    num_frames = PATTERN.chunk_start(5)
    clean, _, condition = family_clip(ours.config, num_frames)
    noised, sigma = torch.randn_like(clean), torch.rand(2, num_frames)
    mask = teacher_forcing_mask(num_frames, PATTERN, patches=PATCHES, device=clean.device)
    frame = torch.arange(num_frames)
    forced = ours(
        torch.cat([clean, noised[:, 1:]], 1),
        torch.cat([torch.zeros_like(sigma), sigma[:, 1:]], 1),
        condition.repeat_clip(1),
        positions=torch.cat([frame, frame[1:]]),
        context=MaskedClip(mask),
    ).velocity[:, num_frames:]
    ring = RingCache(ours.config, PATTERN, patches=PATCHES, horizon_frames=FAR, batch_size=2)
    past = PastChunks(PATTERN, FAR)
    for chunk in range(5):
        part = slice(PATTERN.chunk_start(chunk), PATTERN.chunk_start(chunk + 1))
        size, at, seen = part.stop - part.start, frame[part], condition.frames(part)
        for context in (ring, past):
            ring.positions(size)  # where this pass's keys go
            made = ours(noised[:, part], sigma[:, part], seen, positions=at, context=context).velocity
            if chunk:
                expected = forced[:, part.start - 1 : part.stop - 1]
                torch.testing.assert_close(made, expected, rtol=FP32, atol=FP32)
        still = torch.zeros(2, size)
        ours(clean[:, part], still, seen, positions=ring.positions(size), context=ring)
        ring.advance(size)
        past = past.commit(ours(clean[:, part], still, seen, positions=at, context=past).keys_values)


@torch.no_grad()
def test_image_tokens_and_given_channels_are_seen():
    config = reduced("wan2_1_i2v_14b")
    ours = in_gwm(in_diffusers(config), config)
    x, sigma, condition = family_clip(config, 2)
    before = our_velocity(ours, (x, sigma, condition))
    for name in ("tokens.image", "channels.given"):
        flat = condition.flat()
        other = Conditions.from_flat(flat | {name: torch.zeros_like(flat[name])})
        assert (our_velocity(ours, (x, sigma, other)) - before).abs().max() > 1e-2
