from pathlib import Path

import numpy as np
import pytest
import torch

from gwm.autoencoders.haar import HaarAutoencoder
from gwm.contract import Contract
from gwm.dit import DiT
from gwm.no_text import padded_text
from serve.artifact import Artifact, load_artifact
from serve.engine import Engine
from serve.memory import slot_bytes
from serve.scheduler import CapacityError, first_come
from serve.sessions import Chunk, Sessions
from tests.serve.conftest import randomised
from tests.serve.world import world
from tests.tiny import declared

Voices = tuple[np.ndarray, np.ndarray]


class Clock:
    """Time that passes only when asked for: every look costs a millisecond."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        self.now += 0.001
        return self.now


def sessions(artifact: Artifact, **changes: object) -> Sessions:
    made = Sessions(artifact, **({"slots": 3, "clock": Clock(), "undo_chunks": 2} | changes))
    made.chunk_s = 0.01  # as if measured on a machine with nothing else to do
    return made


def alone(artifact: Artifact, portrait: np.ndarray, voices: Voices, *, seed: int) -> np.ndarray:
    engine = Engine(artifact, seed=seed)
    engine.start(portrait)
    engine.push(*voices)
    frames = []
    while engine.ready:
        frames.append(engine.step())
    return np.concatenate(frames)


def all_chunks(made: Sessions) -> list[Chunk]:
    chunks = []
    while (chunk := made.step()) is not None:
        chunks.append(chunk)
    return chunks


def frames_of(chunks: list[Chunk], name: str) -> np.ndarray:
    return np.concatenate([chunk.frames for chunk in chunks if chunk.session == name])


def test_a_session_is_not_touched_by_others_that_start_again_rewind_and_end(
    artifact: Artifact, portrait: np.ndarray, voices: Voices
):
    made = sessions(artifact, policy=first_come)
    agent, user = voices
    made.open("a", portrait, seed=1)
    made.open("b", portrait[::-1].copy(), seed=2)
    made.push("b", user, agent)
    chunks = []
    for at in range(0, len(agent), 5_000):
        made.push("a", agent[at : at + 5_000], user[at : at + 5_000])
        chunks += [chunk for chunk in (made.step(), made.step()) if chunk is not None]
        if at == 5_000:
            made.rewind("b", 1)
        if at == 10_000:
            made.close("b")
            made.open("c", portrait[:, ::-1].copy(), seed=3)
            made.push("c", user, user)
            made.interrupt("c")
    chunks += all_chunks(made)
    assert {chunk.session for chunk in chunks} == {"a", "b", "c"}
    assert np.array_equal(frames_of(chunks, "a"), alone(artifact, portrait, voices, seed=1))


def test_a_slot_gives_a_new_session_what_a_new_engine_gives(artifact: Artifact, portrait: np.ndarray, voices: Voices):
    made = sessions(artifact, slots=1)
    made.open("old", portrait[::-1].copy(), seed=1)
    made.push("old", *voices)
    made.step()
    made.close("old")
    made.open("new", portrait, seed=2)
    made.push("new", *voices)
    assert np.array_equal(frames_of(all_chunks(made), "new"), alone(artifact, portrait, voices, seed=2))


def test_an_interruption_is_a_new_generation_with_a_receipt(artifact: Artifact, portrait: np.ndarray, voices: Voices):
    made = sessions(artifact)
    made.open("a", portrait, seed=1)
    made.push("a", *voices)
    first = made.step()
    receipt = made.interrupt("a")
    second = made.step()
    assert (first.generation, first.number, second.generation, second.number) == (0, 0, 1, 1)
    assert (receipt.generation, receipt.from_chunk) == (1, 1)
    assert receipt.accepted_s == pytest.approx(made.clock.now, abs=0.1)


def text_model(contract: Contract) -> Artifact:
    """An artifact whose model has a text condition; its empty prompt is two tokens."""
    contract = contract.replace(dit=declared(contract.dit, text=6))
    return Artifact(
        contract, randomised(DiT(contract.dit)), randomised(HaarAutoencoder(contract.vae)), torch.randn(2, 6)
    )


def test_a_switch_holds_from_the_chunk_of_its_receipt(contract: Contract, portrait: np.ndarray, voices: Voices):
    models, text = text_model(contract), torch.randn(1, 4, 6)
    streams = []
    for switched in (False, True):
        made = sessions(models, slots=1, text_tokens=4)
        made.open("a", portrait, seed=1)
        made.push("a", *voices)
        chunks = [made.step()]
        if switched:
            receipt = made.set_prompt("a", text)
        streams.append(chunks + all_chunks(made))
    assert (receipt.generation, receipt.from_chunk) == (0, 1)
    same = [np.array_equal(a.frames, b.frames) for a, b in zip(*streams, strict=True)]
    assert same[: receipt.from_chunk] == [True] and not any(same[receipt.from_chunk :])
    assert {chunk.generation for chunk in streams[1]} == {0}


def test_a_slot_forgets_the_prompt_of_its_last_session(contract: Contract, portrait: np.ndarray, voices: Voices):
    models, frames = text_model(contract), []
    assert models.no_text is not None
    made = sessions(models, slots=1, text_tokens=4)
    for text in (padded_text(models.no_text, 4)[None], torch.randn(1, 4, 6), None):
        made.open("a", portrait, seed=1)
        if text is not None:
            made.set_prompt("a", text)
        made.push("a", *voices)
        frames.append(made.step().frames)
        made.close("a")
    assert np.array_equal(frames[0], frames[2]) and not np.array_equal(frames[0], frames[1])


def test_a_text_of_another_shape_is_an_error(artifact: Artifact, contract: Contract):
    with pytest.raises(ValueError, match=r"text of shape \(1, 3, 6\) must be \(1, 4, 6\)"):
        Engine(text_model(contract), seed=0, text_tokens=4).set_prompt(torch.zeros(1, 3, 6))
    with pytest.raises(ValueError, match=r"text of shape \(1, 3, 6\) must be None"):
        Engine(artifact, seed=0).set_prompt(torch.zeros(1, 3, 6))


def test_rewound_chunks_come_again_in_a_new_generation(artifact: Artifact, portrait: np.ndarray, voices: Voices):
    made = sessions(artifact)
    made.open("a", portrait, seed=1)
    made.push("a", *voices)
    first = [made.step(), made.step()]
    assert made.rewind("a", 2).from_chunk == 0
    again = [made.step(), made.step()]
    for old, new in zip(first, again, strict=True):
        assert (old.number, old.generation + 1) == (new.number, new.generation)
        assert np.array_equal(old.frames, new.frames)


def test_the_stream_whose_player_has_waited_longest_is_served_first(
    artifact: Artifact, portrait: np.ndarray, voices: Voices
):
    made = sessions(artifact)
    for name in ("a", "b"):
        made.open(name, portrait, seed=1)
    made.push("b", *voices)
    made.push("a", *voices)
    assert [made.step().session for _ in range(4)] == ["b", "a", "b", "a"]


def test_sessions_beyond_slots_or_measured_time_are_refused(artifact: Artifact, portrait: np.ndarray):
    made = sessions(artifact, slots=1)
    made.open("a", portrait, seed=1)
    with pytest.raises(CapacityError, match="'b': all 1 slots are taken"):
        made.open("b", portrait, seed=1)
    made = sessions(artifact)
    made.chunk_s = 0.5 * made.period_s
    made.open("a", portrait, seed=1)
    with pytest.raises(CapacityError, match=r"load=1\.00 with 'b' must be <= max_load=0\.9"):
        made.open("b", portrait, seed=1)
    assert len(made.free) == 2


def test_a_portrait_that_does_not_fit_leaves_the_slot_free(artifact: Artifact, portrait: np.ndarray):
    made = sessions(artifact, slots=1)
    with pytest.raises(ValueError, match="portrait of 16x48"):
        made.open("a", portrait[:16], seed=1)
    made.open("a", portrait, seed=1)


def test_slots_that_do_not_fit_into_memory_name_their_bytes(artifact: Artifact):
    with pytest.raises(
        RuntimeError, match=rf"of {slot_bytes(artifact, undo_chunks=0, text_tokens=512)} bytes each must fit"
    ):
        Sessions(artifact, slots=10**9)


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


def test_an_action_holds_in_its_own_session_from_the_chunk_of_its_receipt(tmp_path: Path, portrait: np.ndarray):
    """Of a model that takes no sound, whose chunks wait for no sound."""
    made = sessions(load_artifact(world(tmp_path), device="cpu"), slots=1, text_tokens=4)
    made.open("a", portrait, seed=1)
    engine = made.running["a"].engine
    engine.take()
    receipt = made.act("a", {"left": 0.5})
    assert receipt.from_chunk == 1
    assert engine.take()["action"].reshape(-1, 2).tolist() == [[0.0, 0.5]] * 4
