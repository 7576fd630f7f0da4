import pytest
import torch

from gwm.chunks import ChunkPattern
from gwm.rollout import Rollout
from serve.bench.caches import POLICIES
from serve.bench.counters import counting
from tests.tiny import FAR, contract, latents, speech, tiny_dit

FP32 = 1e-5
NUM_CHUNKS = 10  # three times round the ring


def stream(rollout: Rollout, condition: object, reference: torch.Tensor) -> torch.Tensor:
    size = rollout.contract.pattern.chunk_frames
    rollout.start(reference, condition, seed=3)
    parts = [slice(at, at + size) for at in range(0, NUM_CHUNKS * size, size)]
    return torch.cat([rollout.step(condition.frames(part)) for part in parts], dim=1)


@pytest.mark.parametrize("policy", ["roll", "concatenate", "rotate_all"])
@pytest.mark.parametrize(("chunk_frames", "sink_chunks"), [(1, 1), (1, 0), (3, 1), (2, 2)])
@torch.no_grad()
def test_other_engines_caches_make_the_same_stream(policy: str, chunk_frames: int, sink_chunks: int):
    """Otherwise their times could not be compared."""
    pattern = ChunkPattern(chunk_frames=chunk_frames, window_chunks=4, sink_chunks=sink_chunks, first_frames=1)
    rules, model = contract(FAR // chunk_frames * chunk_frames, pattern=pattern), tiny_dit()
    condition, reference = speech(NUM_CHUNKS * chunk_frames), latents(1)
    made = [
        stream(Rollout(model, rules, batch_size=2, cache=POLICIES[name]), condition, reference)
        for name in ("ring", policy)
    ]
    torch.testing.assert_close(*made, rtol=FP32, atol=10 * FP32)


@torch.no_grad()
def test_what_a_flat_cache_moves_is_counted():
    """Rolling clones and writes back all but a chunk of both storages, once a chunk."""
    rollout = Rollout(tiny_dit(), contract(FAR), cache=POLICIES["roll"])
    stream(rollout, speech(NUM_CHUNKS, 1), latents(1, 1))
    cache = rollout.cache
    with counting([cache.k, cache.v]) as counts:
        cache.follow(1)
    kept = cache.k.nbytes * 2 // 4  # of four frames: not the sink, and not the one that leaves
    assert counts.cache_bytes == 2 * 2 * kept
