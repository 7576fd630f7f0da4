"""A stream whose prompt changes goes on as if its visible past had been generated under it."""

import numpy as np
import pytest
import torch
from torch import Tensor

from gwm.cache import PastChunks
from gwm.chunks import ChunkPattern
from gwm.condition.inputs import Conditions, nothing_given
from gwm.recache import ChunkInputs, recache
from gwm.sampler import step
from serve.engine import Engine
from tests.serve.conftest import tiny_contract
from tests.serve.test_memory import text_model

CHUNKS = 9  # twice round the ring
FP32 = 1e-4  # the same sums in another order
TEXT = (1, 4, 6)


def engine(portrait: np.ndarray, context: str = "clean") -> Engine:
    """Always the same. Has started, and has sound for `CHUNKS` chunks and three more."""
    pattern = ChunkPattern(chunk_frames=1, window_chunks=4, sink_chunks=2, first_frames=1)
    torch.manual_seed(0)
    models = text_model(tiny_contract(chunk_frames=1).replace(pattern=pattern, context=context))
    made = Engine(models, seed=3, undo_chunks=2, text_tokens=TEXT[1])
    made.start(portrait)
    rng = np.random.default_rng(0)
    made.push(*rng.normal(0, 0.1, (2, (CHUNKS + 4) * made.chunk_samples)).astype(np.float32))
    return made


def play(made: Engine, chunks: int) -> list[tuple[Tensor, Conditions]]:
    """Latents of the next chunks and what they heard."""
    played = []
    for _ in range(chunks):
        condition = made.take()
        played.append((made.denoise(condition).clone(), condition))
        made.decode(played[-1][0])
    return played


def expected(made: Engine, seen: list[ChunkInputs], condition: Conditions) -> Tensor:
    """The next chunk behind an immutable past that was recached under its text."""
    rollout, rules = made.rollout, made.contract
    before = PastChunks(rules.pattern, rules.horizon_frames, num_committed=seen[-1].number + 1)
    past = recache(rollout.model, before, seen, text=condition["text"], reference=rollout.reference)
    x, (_, again) = rollout.noises()[0], rollout.noises()
    for sigma, sigma_next in ((1.0, 0.6), (0.6, 0.0)):
        levels, positions = x.new_full((1, 1), sigma), torch.tensor([rollout.frame])
        velocity = rollout.model(
            x, levels, condition, positions=positions, context=past, reference=rollout.reference
        ).velocity
        x = step(x, velocity, sigma=sigma, sigma_next=sigma_next, solver="renoise", noise=again)
    return x


@torch.no_grad()
def test_the_chunk_after_a_new_prompt_sees_a_recached_past(portrait: np.ndarray):
    made = engine(portrait)
    silent = nothing_given(made.contract.dit, 1, like=made.rollout.reference).frames(slice(0, 0)).after_reference()
    chunks = [(made.rollout.reference, silent), *play(made, CHUNKS)]
    seen = [ChunkInputs(number, *chunks[number]) for number in (0, 1, CHUNKS)]
    made.set_prompt(torch.randn(TEXT))
    heard = made.take()
    wanted = expected(made, seen, heard)
    torch.testing.assert_close(made.denoise(heard), wanted, rtol=FP32, atol=FP32)


@torch.no_grad()
def test_a_stream_that_goes_back_behind_a_new_prompt_is_recached_again(portrait: np.ndarray):
    """Keys that the chunk before the new prompt saw come back under the old one."""
    first, second = torch.randn(2, *TEXT)
    made, other = engine(portrait), engine(portrait)
    for stream, chunks in ((made, CHUNKS), (other, CHUNKS - 1)):
        stream.set_prompt(first)
        play(stream, chunks)
        stream.set_prompt(second)
    play(made, 1)
    made.rewind(2)
    assert torch.equal(play(made, 1)[0][0], play(other, 1)[0][0])


@torch.no_grad()
def test_nothing_moves_without_a_new_prompt(portrait: np.ndarray, monkeypatch: pytest.MonkeyPatch):
    """No key is computed again, also after chunks were taken back."""
    made = engine(portrait)
    monkeypatch.setattr("serve.history.recache", None)
    chunks = play(made, CHUNKS)
    made.rewind(2)
    assert all(torch.equal(a, b) for (a, _), (b, _) in zip(play(made, 2), chunks[-2:], strict=True))


@torch.no_grad()
def test_with_a_noisy_context_old_keys_stay(portrait: np.ndarray):
    made = engine(portrait, context="noisy")
    play(made, CHUNKS)
    before = made.rollout.cache.k.clone()
    made.set_prompt(torch.randn(TEXT))
    assert made.history is not None and made.prompt.text is not None
    made.history.set_prompt(made.prompt.text)
    assert torch.equal(made.rollout.cache.k, before)
