import dataclasses
import logging
from collections.abc import Callable
from functools import partial

import pytest
import torch
from torch import Tensor

from gwm.chunks import ChunkPattern
from gwm.condition.inputs import Conditions
from gwm.rollout import Rollout
from serve.graphs import GraphedChunk, capture_cuda, capture_on
from tests.tiny import DIT, contract, declared, latents, speech, tiny_dit

NUM_CHUNKS = 9  # twice round the ring and beyond the horizon


def rollout(device: str = "cpu") -> Rollout:
    dit = dataclasses.replace(DIT, around_reference=True)
    return Rollout(tiny_dit(dit).to(device), contract(4, dit=dit), batch_size=2)


def moved(condition: Conditions, device: str) -> Conditions:
    return condition.map(lambda x: x.to(device))


def play(stream: Rollout, step: Callable[[Conditions], Tensor], condition: Conditions, reference: Tensor) -> Tensor:
    stream.start(reference, condition, seed=3)
    return torch.cat([step(speech_at(condition, at)).clone() for at in range(NUM_CHUNKS)], dim=1)


def speech_at(condition: Conditions, at: int) -> Conditions:
    return condition.frames(slice(at, at + 1))


def recorded(body: Callable[[], None]) -> Callable[[], None]:
    """A capture for CPUs: the body runs for real, as when a graph warms up, and replaying runs it again."""
    body()
    return body


@torch.no_grad()
@pytest.mark.parametrize("capture", [None, recorded])
def test_a_graphed_chunk_is_the_rollouts_step_and_holds_for_all_streams(capture: Callable | None):
    """A replay sees new noise and conditions only through the graph's own storage, and the stream through the cache."""
    stream, condition, reference = rollout(), speech(NUM_CHUNKS), latents(1)
    expected = play(stream, stream.step, condition, reference)
    chunk = GraphedChunk(stream, condition.frames(slice(0, 1)), capture=capture)
    play(stream, chunk.step, speech(NUM_CHUNKS), latents(1))
    assert torch.equal(play(stream, chunk.step, condition, reference), expected)


@torch.no_grad()
def test_a_graph_is_handed_held_noise_of_several_frames():
    pattern = ChunkPattern(chunk_frames=3, window_chunks=2, sink_chunks=1, first_frames=1)
    stream = Rollout(tiny_dit(), contract(6, pattern=pattern, noise="held"), batch_size=2)
    condition, reference = speech(6), latents(1)
    chunk = GraphedChunk(stream, condition.frames(slice(0, 3)), capture=recorded)

    def played(step: Callable[[Conditions], Tensor], seed: int) -> Tensor:
        stream.start(reference, condition, seed=seed)
        return torch.cat([step(condition.frames(part)).clone() for part in (slice(0, 3), slice(3, 6))], dim=1)

    assert all(torch.equal(played(chunk.step, seed), played(stream.step, seed)) for seed in (3, 4))


@torch.no_grad()
def test_the_host_draws_the_next_noise_while_the_device_computes(monkeypatch: pytest.MonkeyPatch):
    stream, condition, done = rollout(), speech(1), []
    noises = stream.noises
    monkeypatch.setattr(stream, "noises", lambda: (done.append("noise"), noises())[1])

    def capture(body: Callable[[], None]) -> Callable[[], None]:
        return lambda: (done.append("replay"), body())[0]

    chunk = GraphedChunk(stream, condition, capture=capture)
    stream.start(latents(1), condition, seed=3)
    chunk.step(condition)
    done.clear()
    chunk.step(condition)
    chunk.step(condition)
    assert done == ["replay", "noise", "replay", "noise"]


@torch.no_grad()
def test_noise_that_was_drawn_ahead_is_not_that_of_a_stream_that_went_back():
    stream, condition = rollout(), speech(1)
    chunk = GraphedChunk(stream, condition, capture=recorded)
    stream.start(latents(1), condition, seed=3)
    latest = [chunk.step(condition).clone() for _ in range(2)][1]
    stream.frame -= 1
    stream.cache.frame.sub_(1)
    assert torch.equal(chunk.step(condition), latest)


@torch.no_grad()
def test_another_text_is_looked_at_before_the_graph_is_replayed():
    """What is replayed makes no keys of a text: it only reads those that are there."""
    dit = declared(DIT, text=8)
    stream, heard, reference = Rollout(tiny_dit(dit), contract(4, dit=dit)), speech(NUM_CHUNKS, 1), latents(1, 1)
    texts = torch.randn(2, 1, 3, 8).unbind(0)
    conditions = [
        heard.frames(slice(at, at + 1)).with_tokens(text=texts[at >= NUM_CHUNKS // 2]) for at in range(NUM_CHUNKS)
    ]

    def capture(body: Callable[[], None]) -> Callable[[], None]:
        body()

        def replay() -> None:
            assert stream.prompt.known
            body()

        return replay

    def played(step: Callable[[Conditions], Tensor]) -> Tensor:
        stream.start(reference, conditions[0], seed=3)
        return torch.cat([step(condition).clone() for condition in conditions], dim=1)

    expected = played(stream.step)
    assert torch.equal(played(GraphedChunk(stream, conditions[0], capture=capture).step), expected)


@torch.no_grad()
def test_capturing_leaves_no_trace_in_the_stream():
    stream = rollout()
    GraphedChunk(stream, speech(1), capture=recorded)
    assert stream.frame == 0 and stream.cache.frame == 0


@torch.no_grad()
def test_a_failed_capture_runs_eagerly_and_says_so_once(caplog: pytest.LogCaptureFixture):
    def fail(body: Callable[[], None]) -> Callable[[], None]:
        body()
        try:
            raise TypeError("what went wrong")
        except TypeError:
            raise RuntimeError("operation not permitted when stream is capturing")  # noqa: B904  # as PyTorch does

    stream, condition, reference = rollout(), speech(NUM_CHUNKS), latents(1)
    expected = play(stream, stream.step, condition, reference)
    with caplog.at_level(logging.INFO):
        chunk = GraphedChunk(stream, condition.frames(slice(0, 1)), capture=fail)
        assert torch.equal(play(stream, chunk.step, condition, reference), expected)
    assert [record.message for record in caplog.records] == [
        "no CUDA graph of the denoiser, which runs eagerly and launches every kernel from the host: "
        "operation not permitted when stream is capturing"
    ]
    assert "TypeError: what went wrong" in caplog.text


@torch.no_grad()
def test_conditions_of_another_shape_are_an_error():
    stream = rollout()
    chunk = GraphedChunk(stream, speech(1), capture=recorded)
    stream.start(latents(1), speech(1), seed=0)
    with pytest.raises(ValueError, match=r"condition frame.agent has shape \(2, 2, "):
        chunk.step(speech(2))


def test_graphs_of_engines_that_take_turns_share_memory(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(torch.cuda, "graph_pool_handle", lambda: (0, 1))
    capture = capture_on(torch.device("cuda"))
    assert isinstance(capture, partial)
    assert (capture.func, capture.keywords) == (capture_cuda, {"pool": (0, 1)})
    assert capture_on(torch.device("cpu")) is None


@pytest.mark.gpu
@torch.no_grad()
def test_streams_that_take_turns_in_one_pool_leave_each_other_alone():
    streams, capture = (rollout("cuda"), rollout("cuda")), capture_on(torch.device("cuda"))
    conditions, references = (
        [moved(speech(NUM_CHUNKS), "cuda") for _ in range(2)],
        [latents(1).cuda() for _ in range(2)],
    )
    expected = [play(s, s.step, c, r) for s, c, r in zip(streams, conditions, references, strict=True)]
    chunks = [GraphedChunk(stream, speech_at(conditions[0], 0), capture=capture) for stream in streams]
    for stream, condition, reference in zip(streams, conditions, references, strict=True):
        stream.start(reference, condition, seed=3)
    made: list[list[Tensor]] = [[], []]
    for at in range(NUM_CHUNKS):
        for chunk, condition, mine in zip(chunks, conditions, made, strict=True):
            mine.append(chunk.step(speech_at(condition, at)).clone())
    for mine, alone in zip(made, expected, strict=True):
        torch.testing.assert_close(torch.cat(mine, dim=1), alone, rtol=1e-5, atol=1e-5)


@pytest.mark.gpu
@torch.no_grad()
def test_replayed_chunks_are_the_eager_twins():
    stream = rollout("cuda")
    condition, reference = moved(speech(NUM_CHUNKS), "cuda"), latents(1).cuda()
    expected = play(stream, stream.step, condition, reference)
    chunk = GraphedChunk(stream, condition.frames(slice(0, 1)), capture=capture_cuda)
    assert chunk.replay is not None
    torch.testing.assert_close(play(stream, chunk.step, condition, reference), expected, rtol=1e-5, atol=1e-5)


@pytest.mark.gpu
@torch.no_grad()
def test_steady_chunks_neither_allocate_nor_wait():
    stream = rollout("cuda")
    condition = moved(speech(1), "cuda")
    chunk = GraphedChunk(stream, condition, capture=capture_cuda)
    stream.start(latents(1).cuda(), condition, seed=0)
    chunk.step(condition)
    before = torch.cuda.memory_allocated()
    torch.cuda.set_sync_debug_mode("error")
    try:
        for _ in range(5):
            chunk.step(condition)
    finally:
        torch.cuda.set_sync_debug_mode("default")
    assert torch.cuda.memory_allocated() == before
