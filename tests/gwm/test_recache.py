"""A recached past against one masked pass over what is kept of it."""

import dataclasses

import pytest
import torch

from gwm.block import MaskedClip
from gwm.cache import PastChunks
from gwm.chunks import ChunkPattern
from gwm.clip import clip_mask
from gwm.recache import ChunkInputs, recache
from tests.tiny import DIT, FAR, PATCHES, declared, latents, speech, tiny_dit

FP32 = 1e-5
PATTERN = ChunkPattern(chunk_frames=2, window_chunks=4, sink_chunks=1, first_frames=1)


@pytest.mark.parametrize("numbers", [(0, 1, 2), (0, 7, 8)], ids=["from the start", "others forgotten"])
@torch.no_grad()
def test_a_recached_past_is_that_of_its_chunks_under_the_new_prompt(numbers: tuple[int, ...]):
    model, sizes = tiny_dit(declared(DIT, text=6)), (1, 2, 2)
    old, new = torch.randn(2, 2, 3, 6)
    inputs = [
        ChunkInputs(number, latents(size), speech(size).with_tokens(text=old))
        for number, size in zip(numbers, sizes, strict=True)
    ]
    past = PastChunks(PATTERN, FAR, num_committed=numbers[-1] + 1)
    made = recache(model, past, inputs, text=new, reference=inputs[0].x0)
    assert made.num_committed == past.num_committed
    starts = [PATTERN.chunk_start(number) for number in numbers]
    positions = torch.cat([torch.arange(start, start + size) for start, size in zip(starts, sizes, strict=True)])
    mask = clip_mask(5, dataclasses.replace(PATTERN, window_chunks=9), patches=PATCHES, device=torch.device("cpu"))
    heard = {name: torch.cat([chunk.condition[name] for chunk in inputs], dim=1) for name in ("agent", "user")}
    condition = dataclasses.replace(inputs[0].condition, frame=heard).with_tokens(text=new)
    expected = model(
        torch.cat([chunk.x0 for chunk in inputs], dim=1), torch.zeros(2, 5), condition, positions=positions,
        context=MaskedClip(mask), reference=inputs[0].x0,
    ).keys_values  # fmt: skip
    for layer, pair in enumerate(expected):
        for part, whole in enumerate(pair):
            found = torch.cat([chunk[layer][part] for chunk in made.chunks], dim=1)
            torch.testing.assert_close(found, whole, rtol=FP32, atol=FP32)


@torch.no_grad()
def test_a_recached_stream_stays_where_it_is():
    """Of a window of two chunks only the reference is kept, which says nothing about how long the stream is."""
    model = tiny_dit(declared(DIT, text=6))
    pattern = dataclasses.replace(PATTERN, window_chunks=2)
    image = ChunkInputs(0, latents(1), speech(1).with_tokens(text=torch.randn(2, 3, 6)))
    past = PastChunks(pattern, FAR, num_committed=6)
    made = recache(model, past, [image], text=torch.randn(2, 3, 6), reference=image.x0)
    assert (made.num_committed, len(made.chunks)) == (6, 1)
