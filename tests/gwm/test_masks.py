from collections.abc import Callable

import pytest
import torch

from gwm.chunks import ChunkPattern
from gwm.clip import clip_mask, teacher_forcing_mask
from kernels.attention import flex_frames, sdpa_frames
from kernels.frame_mask import FrameMask

FP32 = 1e-5
CPU = torch.device("cpu")
PATTERNS = [
    ChunkPattern(chunk_frames=chunk, window_chunks=window, sink_chunks=sinks, first_frames=first)
    for chunk in (1, 3)
    for window, sinks in ((1, 0), (3, 0), (3, 1), (4, 2))
    for first in (0, 1)
]


def chunk_number(frame: int, pattern: ChunkPattern) -> int:
    """Counted up one frame at a time, without the arithmetic under test."""
    chunk, left = 0, pattern.first_frames or pattern.chunk_frames
    for _ in range(frame):
        left -= 1
        if left == 0:
            chunk, left = chunk + 1, pattern.chunk_frames
    return chunk


def visible(query: int, key: int, pattern: ChunkPattern) -> bool:
    q, k = chunk_number(query, pattern), chunk_number(key, pattern)
    return k <= q and (k < pattern.sink_chunks or q - k < pattern.window_chunks - pattern.sink_chunks)


def length(pattern: ChunkPattern) -> int:
    return pattern.first_frames + 6 * pattern.chunk_frames


@pytest.mark.parametrize("pattern", PATTERNS, ids=str)
def test_clip_mask_is_its_definition(pattern: ChunkPattern):
    num_frames, patches = length(pattern), 2
    mask = clip_mask(num_frames, pattern, patches=patches, device=CPU).dense
    for query in range(num_frames * patches):
        for key in range(num_frames * patches):
            assert mask[query, key] == visible(query // patches, key // patches, pattern), (query, key)


@pytest.mark.parametrize("pattern", PATTERNS, ids=str)
def test_teacher_forcing_mask_is_its_definition(pattern: ChunkPattern):
    """Rows and columns: the clean clip, then the noised clip without its first frames."""
    num_frames = length(pattern)
    mask = teacher_forcing_mask(num_frames, pattern, patches=1, device=CPU).dense
    frames = [(False, f) for f in range(num_frames)] + [(True, f) for f in range(pattern.first_frames, num_frames)]
    assert mask.shape == (len(frames), len(frames))
    for row, (query_noised, query) in enumerate(frames):
        for column, (key_noised, key) in enumerate(frames):
            own = chunk_number(query, pattern) == chunk_number(key, pattern)
            if query_noised:
                expected = own if key_noised else visible(query, key, pattern) and not own
            else:
                expected = not key_noised and visible(query, key, pattern)
            assert mask[row, column] == expected, (query_noised, query, key_noised, key)


@pytest.mark.parametrize("pattern", PATTERNS, ids=str)
@pytest.mark.parametrize("made", [clip_mask, teacher_forcing_mask])
def test_flex_attention_sees_what_the_mask_shows(pattern: ChunkPattern, made: Callable[..., FrameMask]):
    """Every pair of tokens by the rule that is compiled on a GPU."""
    mask = made(length(pattern), pattern, patches=3, device=CPU)
    token = torch.arange(len(mask.dense))
    assert torch.equal(mask.blocks.mask_mod(0, 0, token[:, None], token[None]), mask.dense)


@pytest.mark.parametrize("made", [clip_mask, teacher_forcing_mask])
def test_flex_attention_is_attention_under_the_mask(made: Callable[..., FrameMask]):
    mask = made(length(PATTERNS[-1]), PATTERNS[-1], patches=20, device=CPU)
    q, k, v = torch.randn(3, 1, len(mask.dense), 2, 8)
    torch.testing.assert_close(flex_frames(q, k, v, mask), sdpa_frames(q, k, v, mask), rtol=FP32, atol=FP32)
