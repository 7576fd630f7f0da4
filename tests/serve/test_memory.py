"""The memory of a stream is known before it is allocated."""

import numpy as np
import pytest
import torch

from gwm.autoencoders.haar import HaarAutoencoder
from gwm.contract import Contract
from gwm.dit import DiT
from serve import memory
from serve.artifact import Artifact
from serve.engine import Engine
from serve.memory import check_memory, slot_bytes, slots_that_fit
from tests.serve.conftest import randomised
from tests.tiny import declared

Voices = tuple[np.ndarray, np.ndarray]


def text_model(contract: Contract) -> Artifact:
    """An artifact whose model has a text condition; its empty prompt is two tokens."""
    contract = contract.replace(dit=declared(contract.dit, text=6))
    return Artifact(
        contract, randomised(DiT(contract.dit)), randomised(HaarAutoencoder(contract.vae)), torch.randn(2, 6)
    )


def test_slots_that_do_not_fit_into_memory_name_their_bytes(artifact: Artifact):
    with pytest.raises(
        RuntimeError, match=rf"of {slot_bytes(artifact, undo_chunks=0, text_tokens=512)} bytes each must fit"
    ):
        check_memory(artifact, slots=10**9, undo_chunks=0, text_tokens=512)


def test_the_bytes_of_a_slot_are_those_of_its_tensors(artifact: Artifact, portrait: np.ndarray, voices: Voices):
    engine = Engine(artifact, seed=0, undo_chunks=2)
    engine.start(portrait)
    engine.push(*voices)
    engine.step()
    cache = engine.rollout.cache
    own = [
        cache.k,
        cache.v,
        cache.sink_k,
        engine.rollout.reference,
        *engine.decoder.memory.constant,
        *engine.decoder.memory.moving,
    ]
    tensors = [*own, engine.undo.evicted, *engine.undo.decoded]
    assert slot_bytes(artifact, undo_chunks=2, text_tokens=512) == sum(tensor.nbytes for tensor in tensors)


def test_a_text_and_what_is_made_anew_under_another_count_too(contract: Contract, portrait: np.ndarray):
    models = text_model(contract)
    engine = Engine(models, seed=0, undo_chunks=1, text_tokens=4)
    engine.start(portrait, torch.randn(1, 4, 6))
    for _ in range(contract.pattern.window_chunks + 2):
        engine.push(*np.zeros((2, engine.chunk_samples + engine.lookahead_samples), np.float32))
        engine.step()
    without = Artifact(contract, randomised(DiT(contract.dit)), models.vae)
    tensors = [
        engine.prompt.text,
        engine.prompt.nothing,
        *(z for layer in engine.rollout.prompt.layers for pair in layer for z in pair),
    ]
    for chunk in engine.history.chunks:
        tensors += [chunk.x0, *chunk.condition.frame.values()]
    more = slot_bytes(models, undo_chunks=1, text_tokens=4) - slot_bytes(without, undo_chunks=1, text_tokens=4)
    assert more == sum(tensor.nbytes for tensor in tensors)


def test_as_many_slots_fit_as_the_free_memory_holds(artifact: Artifact, monkeypatch: pytest.MonkeyPatch):
    each = slot_bytes(artifact, undo_chunks=0, text_tokens=512)
    monkeypatch.setattr(memory, "host_bytes", lambda: 3 * each + 1)
    assert slots_that_fit(artifact, undo_chunks=0, text_tokens=512) == 3
