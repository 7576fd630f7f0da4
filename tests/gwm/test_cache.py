"""Serving chunk by chunk must give what training saw in one masked pass, for ever."""

import dataclasses
import itertools
from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from gwm.block import MaskedClip
from gwm.cache import PastChunks, RingCache
from gwm.chunks import ChunkPattern
from gwm.clip import clip_mask
from gwm.condition.inputs import Conditions
from gwm.dit import DiT
from gwm.rope import time_rotation
from kernels.attention import rotate_pairs
from tests.tiny import DIT, FAR, PATCHES, latents, speech, tiny_dit

FP32 = 1e-5
LATE = 100_000  # latent frames
PATTERNS = [
    ChunkPattern(chunk_frames=chunk, window_chunks=window, sink_chunks=sinks, first_frames=first)
    for chunk in (1, 3)
    for first in (0, 1)
    for window, sinks in ((3, 0), (3, 1), (4, 2), (2, 1))
]
SINKS = [pattern for pattern in PATTERNS if pattern.sink_chunks]
Clip = tuple[Tensor, Tensor, Conditions]  # x, sigma, condition


def wrapping(pattern: ChunkPattern) -> int:
    """Frames of a stream that goes three times round the ring."""
    return pattern.chunk_start(pattern.sink_chunks + 3 * (pattern.window_chunks - pattern.sink_chunks) + 2)


def clip(num_frames: int) -> Clip:
    return latents(num_frames), torch.rand(2, num_frames), speech(num_frames)


def parts(pattern: ChunkPattern, num_frames: int) -> list[slice]:
    starts = [pattern.chunk_start(i) for i in range(pattern.num_chunks(num_frames) + 1)]
    return [slice(a, b) for a, b in itertools.pairwise(starts)]


def ring(pattern: ChunkPattern, horizon_frames: int = FAR) -> RingCache:
    return RingCache(DIT, pattern, patches=PATCHES, horizon_frames=horizon_frames, batch_size=2)


def through_ring(
    model: DiT, cache: RingCache, data: Clip, chunks: list[slice], *, before: Callable[[int], object] = lambda _: None
) -> Tensor:
    """Velocity of every chunk, each committed as it is; `before` is called with the size of the chunk to come."""
    x, sigma, condition = data
    made = [x[:, :0]]
    for part in chunks:
        size = part.stop - part.start
        cache.follow(size)
        before(size)
        positions = cache.positions(size)
        made.append(model(x[:, part], sigma[:, part], condition.frames(part), positions=positions, context=cache)[0])
        cache.advance(size)
    return torch.cat(made, 1)


def through_past(model: DiT, past: PastChunks, data: Clip, chunks: list[slice]) -> Tensor:
    x, sigma, condition = data
    made = []
    for part in chunks:
        start = past.pattern.chunk_start(past.num_committed)
        positions = torch.arange(start, start + part.stop - part.start)
        new = model(x[:, part], sigma[:, part], condition.frames(part), positions=positions, context=past)
        past = past.commit(new.keys_values)
        made.append(new.velocity)
    return torch.cat(made, 1)


def masked(model: DiT, data: Clip, pattern: ChunkPattern) -> Tensor:
    x, sigma, condition = data
    mask = clip_mask(x.shape[1], pattern, patches=PATCHES, device=x.device)
    return model(x, sigma, condition, positions=torch.arange(x.shape[1]), context=MaskedClip(mask)).velocity


@pytest.mark.parametrize("pattern", PATTERNS, ids=str)
@torch.no_grad()
def test_ring_equals_the_masked_clip(pattern: ChunkPattern):
    model, data = tiny_dit(), clip(wrapping(pattern))
    cached = through_ring(model, ring(pattern), data, parts(pattern, wrapping(pattern)))
    torch.testing.assert_close(cached, masked(model, data, pattern), rtol=FP32, atol=FP32)


@pytest.mark.parametrize("pattern", PATTERNS, ids=str)
@torch.no_grad()
def test_past_chunks_equal_the_masked_clip(pattern: ChunkPattern):
    model, data = tiny_dit(), clip(wrapping(pattern))
    cached = through_past(model, PastChunks(pattern, FAR), data, parts(pattern, wrapping(pattern)))
    torch.testing.assert_close(cached, masked(model, data, pattern), rtol=FP32, atol=FP32)


@pytest.mark.parametrize("pattern", PATTERNS, ids=str)
@torch.no_grad()
def test_noisy_passes_leave_no_trace(pattern: ChunkPattern):
    model, data = tiny_dit(), clip(wrapping(pattern))
    chunks = parts(pattern, wrapping(pattern))
    clean, noised = ring(pattern), ring(pattern)

    def denoise(size: int) -> None:
        for sigma in (1.0, 0.5):
            x, levels = latents(size), torch.full((2, size), sigma)
            model(x, levels, speech(size), positions=noised.positions(size), context=noised)

    expected = through_ring(model, clean, data, chunks)
    assert torch.equal(through_ring(model, noised, data, chunks, before=denoise), expected)


@pytest.mark.parametrize("pattern", PATTERNS, ids=str)
@torch.no_grad()
def test_no_future_frame_reaches_the_past(pattern: ChunkPattern):
    model, (x, sigma, condition) = tiny_dit(), clip(wrapping(pattern))
    before = masked(model, (x, sigma, condition), pattern)
    for part in parts(pattern, x.shape[1])[1:]:
        changed = x.clone()
        changed[:, part.start :] = torch.randn_like(changed[:, part.start :])
        after = masked(model, (changed, sigma, condition), pattern)
        assert torch.equal(after[:, : part.start], before[:, : part.start])
        assert not torch.equal(after[:, part], before[:, part])


@pytest.mark.parametrize("pattern", PATTERNS, ids=str)
@pytest.mark.parametrize("horizon_chunks", [2, -1])
@torch.no_grad()
def test_ring_equals_past_chunks_beyond_the_horizon(pattern: ChunkPattern, horizon_chunks: int):
    model, data = tiny_dit(), clip(wrapping(pattern))
    chunks, horizon = parts(pattern, wrapping(pattern)), horizon_chunks * pattern.chunk_frames
    in_ring = through_ring(model, ring(pattern, horizon), data, chunks)
    in_past = through_past(model, PastChunks(pattern, horizon), data, chunks)
    torch.testing.assert_close(in_ring, in_past, rtol=FP32, atol=FP32)


@pytest.mark.parametrize("pattern", SINKS, ids=str)
@pytest.mark.parametrize("ahead", [0, 4])
@torch.no_grad()
def test_beyond_the_horizon_sinks_stay_at_its_distance(pattern: ChunkPattern, ahead: int):
    """With one layer keys do not depend on positions, so moving the sinks' positions is the definition. Ahead: they
    are beyond it from the first chunk on."""
    model = tiny_dit(dataclasses.replace(DIT, num_layers=1))
    x, sigma, condition = clip(wrapping(pattern))
    num_frames, horizon = x.shape[1], -ahead or pattern.sink_frames + pattern.chunk_frames
    cached = through_ring(model, ring(pattern, horizon), (x, sigma, condition), parts(pattern, num_frames))
    mask = clip_mask(num_frames, pattern, patches=PATCHES, device=x.device)
    for part in parts(pattern, num_frames)[pattern.sink_chunks :]:
        positions = torch.arange(num_frames)
        positions[: pattern.sink_frames] += max(0, part.stop - 1 - horizon)
        expected = model(x, sigma, condition, positions=positions, context=MaskedClip(mask)).velocity[:, part]
        torch.testing.assert_close(cached[:, part], expected, rtol=FP32, atol=FP32)


@pytest.mark.parametrize("pattern", PATTERNS, ids=str)
@torch.no_grad()
def test_a_ring_runs_on_at_latent_frame_100000_as_soon_after_its_start(pattern: ChunkPattern):
    """Both streams commit the sinks, jump beyond the horizon by whole rounds of the ring, and go on."""
    model, data = tiny_dit(), clip(wrapping(pattern))
    chunks, horizon = parts(pattern, wrapping(pattern)), pattern.sink_frames + 2 * pattern.ring_frames

    def jumped(rounds: int) -> Tensor:
        cache = ring(pattern, horizon)
        through_ring(model, cache, data, chunks[: pattern.sink_chunks])
        cache.frame.fill_(pattern.sink_frames + rounds * pattern.ring_frames)
        return through_ring(model, cache, data, chunks[max(1, pattern.sink_chunks) :])

    torch.testing.assert_close(jumped(1 + LATE // pattern.ring_frames), jumped(3), rtol=FP32, atol=FP32)


@pytest.mark.parametrize("pattern", SINKS, ids=str)
@torch.no_grad()
def test_past_chunks_run_on_at_latent_frame_100000_as_soon_after_their_start(pattern: ChunkPattern):
    """The late stream holds the same recent chunks, turned to where they would be by then, and the same sinks."""
    model, (x, sigma, condition) = tiny_dit(), clip(wrapping(pattern))
    chunks, horizon = parts(pattern, wrapping(pattern)), pattern.sink_frames + pattern.ring_frames
    past = PastChunks(pattern, horizon)
    for part in chunks[: pattern.window_chunks]:
        positions = torch.arange(part.start, part.stop)
        new = model(x[:, part], sigma[:, part], condition.frames(part), positions=positions, context=past)
        past = past.commit(new.keys_values)
    num_skipped = LATE // pattern.chunk_frames
    turn = time_rotation(torch.tensor(num_skipped * pattern.chunk_frames), DIT.head_dim)
    sinks, recent = past.chunks[: pattern.sink_chunks], past.chunks[pattern.sink_chunks :]
    turned = tuple(tuple((rotate_pairs(k, *turn), v) for k, v in chunk) for chunk in recent)
    late = PastChunks(pattern, horizon, sinks + turned, past.num_committed + num_skipped)
    rest = chunks[pattern.window_chunks :]
    expected = through_past(model, past, (x, sigma, condition), rest)
    torch.testing.assert_close(through_past(model, late, (x, sigma, condition), rest), expected, rtol=FP32, atol=FP32)


@torch.no_grad()
def test_reset_forgets_the_stream():
    pattern = ChunkPattern(chunk_frames=1, window_chunks=3, sink_chunks=1, first_frames=1)
    model, cache, data = tiny_dit(), ring(pattern, 4), clip(9)
    first = through_ring(model, cache, data, parts(pattern, 9))
    cache.reset()
    through_ring(model, cache, clip(9), parts(pattern, 9))
    cache.reset()
    assert torch.equal(through_ring(model, cache, data, parts(pattern, 9)), first)


@torch.no_grad()
def test_storage_of_the_ring_never_moves():
    """A captured CUDA graph holds these addresses."""
    pattern = ChunkPattern(chunk_frames=3, window_chunks=3, sink_chunks=2, first_frames=1)
    cache = ring(pattern, 4)
    storage = (cache.k, cache.v, cache.sink_k, cache.frame)
    addresses = [tensor.data_ptr() for tensor in storage]
    through_ring(tiny_dit(), cache, clip(wrapping(pattern)), parts(pattern, wrapping(pattern)))
    cache.reset()
    assert [tensor.data_ptr() for tensor in (cache.k, cache.v, cache.sink_k, cache.frame)] == addresses


@torch.no_grad()
def test_committing_leaves_earlier_past_chunks_as_they_were():
    """A recomputed forward pass (activation checkpointing) must see what the first one saw."""
    pattern = ChunkPattern(chunk_frames=1, window_chunks=3, sink_chunks=1, first_frames=1)
    model, past, chunk = tiny_dit(), PastChunks(pattern, 2), clip(1)
    for _ in range(4):
        past = past.commit(model(*chunk, positions=torch.tensor([past.num_committed]), context=past).keys_values)
    before = model(*chunk, positions=torch.tensor([4]), context=past).velocity
    past.commit(model(*clip(1), positions=torch.tensor([4]), context=past).keys_values)
    assert torch.equal(model(*chunk, positions=torch.tensor([4]), context=past).velocity, before)
    with pytest.raises(dataclasses.FrozenInstanceError):
        past.num_committed = 0  # type: ignore[misc]
