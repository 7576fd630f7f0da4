"""Deterministic promises of the engine, counted on a CPU: they hold on a GPU because the same code runs there."""

import dataclasses

import pytest
import torch

from gwm.chunks import ChunkPattern
from gwm.condition.inputs import Conditions
from gwm.config import DiTConfig
from gwm.rollout import Rollout
from kernels import attention
from kernels.attention import Prefix
from serve.bench.counters import Counts, counting
from serve.history import UndoLog
from tests.tiny import DIT, PATCHES, contract, declared, latents, speech, tiny_dit

NO_SINKS = ChunkPattern(chunk_frames=1, window_chunks=3, sink_chunks=0, first_frames=1)


def steady(
    *, pattern: ChunkPattern | None = None, dit: DiTConfig = DIT, sigmas: tuple[float, ...] = (1.0, 0.6)
) -> tuple[Rollout, Conditions]:
    """A stream whose window is full, and what it hears."""
    changes = {} if pattern is None else {"pattern": pattern}
    rollout = Rollout(tiny_dit(dit), contract(6, dit=dit, sigmas=sigmas, **changes))
    tokens = {spec.name: torch.randn(1, 3, spec.width) for spec in dit.of_rate("tokens")}
    condition = speech(rollout.contract.pattern.chunk_frames, 1).with_tokens(**tokens)
    rollout.start(latents(1, 1), condition, seed=0)
    for _ in range(5):
        rollout.step(condition)
    return rollout, condition


def counts(rollout: Rollout, condition: Conditions) -> Counts:
    cache, noises = rollout.cache, rollout.noises()
    with counting([cache.k, cache.v]) as made:
        rollout.generate(noises, condition)
    return made


def test_a_steady_chunk_never_reads_a_number_back():
    assert counts(*steady()).host_reads == 0


def test_the_counter_sees_a_host_read():
    with counting([]) as made:
        torch.zeros(3).sum().item()
    assert made.host_reads == 1


def test_what_attention_reads_of_the_cache_is_not_moved():
    """By the backend of GPUs without flash-attn; on no device only its shapes are computed."""
    q, k, v = (torch.empty(1, tokens, 2, 8, dtype=torch.bfloat16, device="meta") for tokens in (2, 6, 6))
    prefix = Prefix(torch.empty(1, dtype=torch.int32, device="meta"), torch.empty(1, 6, device="meta"))
    with counting([k, v]) as made:
        attention._varlen(q, k, v, prefix)
    assert made.sum_by_name["torch_attn::_varlen_attn"] == 1
    assert made.cache_bytes < q.nbytes  # no storage has an address there: what is counted are the boundaries


@pytest.mark.parametrize("chunk_frames", [1, 3])
def test_the_cache_moves_the_new_keys_and_values_and_nothing_else(chunk_frames: int):
    """2 c n d numbers for each layer and pass: nothing is rolled, cloned or put together."""
    rollout, condition = steady(pattern=dataclasses.replace(NO_SINKS, chunk_frames=chunk_frames))
    passes = len(rollout.contract.sigmas) + 1
    expected = 2 * chunk_frames * PATCHES * DIT.dim * DIT.num_layers * passes * 4
    assert counts(rollout, condition).cache_bytes == expected


def test_sinks_are_turned_once_a_chunk_and_not_once_a_pass():
    new = 2 * PATCHES * DIT.dim * DIT.num_layers * 4
    extra = [counts(*steady(sigmas=sigmas)).cache_bytes - (len(sigmas) + 1) * new for sigmas in ((1.0,), (1.0, 0.6))]
    assert extra[0] == extra[1] > 0


@pytest.mark.parametrize(("text", "packed", "most"), [(0, False, 12), (8, True, 15)])
def test_a_block_is_at_most_15_kernel_calls(text: int, packed: bool, most: int):
    """As on a GPU: with a text the three projections must be one product."""
    calls = []
    for num_layers in (2, 3):
        rollout, condition = steady(dit=declared(dataclasses.replace(DIT, num_layers=num_layers), text=text))
        if packed:
            rollout.model.pack()
        calls.append(counts(rollout, condition).kernel_calls)
    assert calls[1] - calls[0] <= 3 * most  # two steps and the commit


def test_neither_a_chunk_nor_a_new_stream_moves_storage():
    """A captured graph reads and writes where these were when it was captured."""
    rollout, condition = steady()
    undo, cache = UndoLog(rollout, (), 2), rollout.cache

    def places() -> list[int]:
        tensors = (cache.k, cache.v, cache.sink_k, cache.frame, rollout.reference, undo.evicted)
        return [tensor.data_ptr() for tensor in tensors]

    before = places()
    rollout.start(latents(1, 1), condition, seed=1)
    for _ in range(3):
        undo.keep_keys()
        rollout.step(condition)
    assert places() == before
