"""Engines of several sessions by name: what they show is what an engine alone shows, overlapped or not."""

import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import torch

from serve.acts import Applied
from serve.artifact import Artifact, load_artifact
from serve.engine import Engine
from serve.live.avatar.changes import Act, Rewind, SetPrompt
from serve.live.avatar.engines import EngineOptions, Engines
from tests.serve.live.avatar.live_sound import CHUNK, LOOKAHEAD, chunks, played
from tests.serve.world import TEXT, world


@pytest.fixture
def contract_of_one(contract):
    if contract.pattern.chunk_frames != 1:
        pytest.skip("one size suffices: a process takes seconds to start")


@pytest.mark.parametrize("first", ["said", "silent"])
def test_what_the_lookahead_was_is_replaced_by_what_is_known_later(
    contract_of_one: None, folder: Path, artifact: Artifact, portrait: np.ndarray, voices, first: str
):
    """After an interruption what was to be said is in the first chunk's lookahead alone; so is the silence before an
    answer that comes later."""
    engines = Engines(EngineOptions(artifact=str(folder), device="cpu"))
    engines.start("a", portrait, 3)
    engine = Engine(artifact, seed=3)
    engine.start(portrait)
    engine.push_silence(LOOKAHEAD)
    for number, (agent, user) in enumerate(chunks(voices)):
        said = agent if (number == 0) == (first == "said") else np.zeros_like(agent)
        engine.push(np.zeros_like(user), user)
        engine.timeline.samples[0, engine.timeline.past_samples :] = torch.from_numpy(said)
        assert np.array_equal(engines.step("a", said, user), engine.step())


def test_an_engine_whose_session_has_ended_serves_the_next_as_a_new_one_would(
    contract_of_one: None, folder: Path, artifact: Artifact, portrait: np.ndarray, voices
):
    """Storage and graphs are made once; a portrait that does not fit costs nothing."""
    engines = Engines(EngineOptions(artifact=str(folder), device="cpu"))
    engines.start("a", portrait, 1)
    first = engines.engines["a"]
    engines.step("a", *chunks(voices)[0])
    engines.stop("a")
    with pytest.raises(ValueError, match="portrait of 16x48 px must be 32x48, height x width"):
        engines.start("b", portrait[:16], 2)
    engines.start("c", portrait, 3)
    assert engines.engines == {"c": first} and not engines.free
    expected = played(artifact, portrait, voices, seed=3)
    parts = [engines.step("c", agent, user) for agent, user in chunks(voices)]
    shown = np.concatenate([part for part in parts if part is not None])
    assert np.array_equal(shown, expected[: len(shown)])


def test_changes_are_those_of_an_engine_that_is_given_them_at_the_chunk_of_the_receipt(
    tmp_path: Path, portrait: np.ndarray
):
    """A world, which needs no sound: it takes its step with every chunk of the clock."""
    place, text = world(tmp_path), torch.randn(3, TEXT)
    engines = Engines(EngineOptions(artifact=str(place), device="cpu", undo_chunks=2))
    engines.start("a", portrait, 3)
    silence = np.zeros(CHUNK, np.float32)
    made, receipts = [], []
    for number in range(6):
        if number == 2:
            receipts.append(engines.change("a", SetPrompt("rain", text.numpy())))
        if number == 4:
            receipts.append(engines.change("a", Act({"left": 0.5})))
        made.append(engines.step("a", silence, silence))
    assert [one.chunk for one in receipts] == [2, 4] and receipts[1].media_s == pytest.approx(4 / 6)
    engine = Engine(load_artifact(place, device="cpu"), seed=3)
    engine.start(portrait)
    for number in range(6):
        if number == 2:
            engine.set_prompt(torch.cat([text, torch.zeros(509, TEXT)])[None])
        if number == 4:
            engine.act({"left": 0.5})
        assert np.array_equal(engine.step(), made[number])
    assert engines.change("a", Rewind(2)) == receipts[1]
    again = [engines.step("a", silence, silence) for _ in range(2)]
    assert np.array_equal(np.concatenate(again), np.concatenate(made[4:]))
    assert "must be in [0, 2]" in str(engines.change("a", Rewind(3)))
    assert "must be one of" in str(engines.change("a", Act({"up": 1})))


def test_a_conversation_that_goes_back_goes_on_with_the_sound_of_now(
    contract_of_one: None, folder: Path, portrait: np.ndarray, voices
):
    """Chunks 2 and 3 are taken back: what follows is as if their sound had never been pushed."""
    engines, straight = (Engines(EngineOptions(artifact=str(folder), device="cpu", undo_chunks=2)) for _ in range(2))
    for each in (engines, straight):
        each.start("a", portrait, 3)
    parts = chunks((np.tile(voices[0], 2), np.tile(voices[1], 2)))[:8]
    for part in parts[:4]:
        engines.step("a", *part)
    assert engines.change("a", Rewind(2)).chunk == 2
    for part in parts[:2]:
        straight.step("a", *part)
    timeline = straight.engines["a"].timeline
    timeline.samples[1, timeline.past_samples :] = torch.from_numpy(parts[3][1])  # what was heard last
    for part in parts[4:]:
        rest = engines.step("a", *part), straight.step("a", *part)
        assert rest[0] is not None and np.array_equal(*rest)


def test_engines_in_bfloat16_show_what_those_in_float32_do(
    contract_of_one: None, folder: Path, portrait: np.ndarray, voices
):
    """But for what its eight bits leave out."""
    made = []
    for dtype in ("float32", "bfloat16"):
        engines = Engines(EngineOptions(artifact=str(folder), device="cpu", dtype=dtype))
        assert engines.artifact.dit.head.weight.dtype == getattr(torch, dtype)
        engines.start("a", portrait, 3)
        made.append(np.concatenate([engines.step("a", agent, user) for agent, user in chunks(voices)]))
    error = np.abs(made[0].astype(int) - made[1].astype(int))
    assert 0 < error.mean() < 4 and made[0].std() > 10


def test_a_chunk_made_again_with_speech_is_the_chunk_of_who_knew(
    contract_of_one: None, folder: Path, portrait: np.ndarray, voices
):
    """Somebody begins to speak within a chunk that was made silent; also of what follows."""
    engines, knew = (Engines(EngineOptions(artifact=str(folder), device="cpu", undo_chunks=1)) for _ in range(2))
    (first, heard), (second, more) = chunks(voices)[:2]
    silent, within = np.zeros_like(first), np.where(np.arange(len(first)) < CHUNK // 3, 0, first)
    for each in (engines, knew):
        each.start("a", portrait, 3)
        each.step("a", silent, more)
    before, expected = engines.step("a", silent, heard), knew.step("a", within, heard)
    again = engines.retake("a", within)
    assert again is not None and expected is not None and np.array_equal(again, expected)
    assert not np.array_equal(again, before)
    rest = engines.step("a", second, more), knew.step("a", second, more)
    assert rest[0] is not None and np.array_equal(*rest)


def test_a_chunk_that_is_not_kept_or_is_under_way_is_not_made_again(
    contract_of_one: None, folder: Path, portrait: np.ndarray, voices
):
    agent, user = chunks(voices)[0]
    for options in ({"undo_chunks": 0}, {"undo_chunks": 1, "overlap": "on"}):
        engines = Engines(EngineOptions(artifact=str(folder), device="cpu", **options))
        engines.start("a", portrait, 3)
        engines.step("a", agent, user)
        assert engines.retake("a", agent) is None


def test_an_engine_that_does_not_fit_into_memory_names_its_bytes(
    contract_of_one: None, folder: Path, portrait: np.ndarray, monkeypatch: pytest.MonkeyPatch
):
    engines = Engines(EngineOptions(artifact=str(folder), device="cpu"))
    monkeypatch.setattr("serve.memory.host_bytes", lambda: 1)
    engines.start("a", portrait, 1)  # the first was made with the process
    with pytest.raises(RuntimeError, match="must fit into the 1 bytes that are free on cpu"):
        engines.start("b", portrait, 1)


def test_a_call_for_a_session_that_is_unknown_is_refused_and_ends_nothing(contract_of_one: None, folder: Path):
    engines = Engines(EngineOptions(artifact=str(folder), device="cpu"))
    engines.stop("nobody")
    assert engines.count() == 0
    with pytest.raises(KeyError):
        engines.step("nobody", np.zeros(CHUNK, np.float32), np.zeros(CHUNK, np.float32))


@pytest.mark.parametrize("overlap", ["on", "off"])
def test_overlap_changes_no_frame_and_delays_each_by_a_chunk(tmp_path: Path, portrait: np.ndarray, overlap: str):
    """A world that is given a prompt and numbers and goes back twice: once before anything was shown."""
    place, text = world(tmp_path), torch.randn(3, TEXT)
    engines, alone = (
        Engines(EngineOptions(artifact=str(place), device="cpu", undo_chunks=2, overlap=mode))
        for mode in (overlap, "off")
    )
    changes = {1: Rewind(1), 2: SetPrompt("rain", text.numpy()), 4: Act({"left": 0.5}), 7: Rewind(2)}
    silence = np.zeros(CHUNK, np.float32)
    made, expected = [], []
    for engine, frames in ((engines, made), (alone, expected)):
        engine.start("a", portrait, 3)
        receipts = []
        for number in range(10):
            if number in changes:
                receipts.append(engine.change("a", changes[number]))
            frames.append(engine.step("a", silence, silence))
        frames += receipts
    late = 1 if overlap == "on" else 0
    assert [part is None for part in made[:10]] == [number < late for number in range(10)]
    assert np.array_equal(np.stack(made[late:10]), np.stack(expected[: 10 - late]))
    assert made[10:] == expected[10:] and all(isinstance(one, Applied) for one in made[10:])


def test_two_sessions_share_the_workers_and_each_is_as_if_alone(contract_of_one: None, folder: Path, portrait, voices):
    engines = Engines(EngineOptions(artifact=str(folder), device="cpu", overlap="on"))
    made: dict[str, list[np.ndarray]] = {"a": [], "b": []}
    for seed, name in enumerate(made):
        engines.start(name, portrait, seed)
    for agent, user in chunks(voices):
        for name, frames in made.items():
            part = engines.step(name, agent, user)
            frames += [] if part is None else [part]
    artifact = load_artifact(folder, device="cpu")
    for seed, name in enumerate(made):
        expected = played(artifact, portrait, voices, seed=seed)
        shown = np.concatenate(made[name])
        assert len(shown) > 4 and np.array_equal(shown, expected[: len(shown)])


def test_an_engine_that_has_failed_begins_again_with_the_next_start(
    contract_of_one: None, folder: Path, artifact: Artifact, portrait, voices, monkeypatch: pytest.MonkeyPatch
):
    engines = Engines(EngineOptions(artifact=str(folder), device="cpu", overlap="on"))
    engines.start("a", portrait, 3)
    monkeypatch.setattr(engines.engines["a"], "decode", lambda latents: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        for agent, user in chunks(voices):
            engines.step("a", agent, user)
    monkeypatch.undo()
    engines.start("a", portrait, 3)
    parts = [engines.step("a", agent, user) for agent, user in chunks(voices)]
    expected = played(artifact, portrait, voices, seed=3)
    shown = np.concatenate([part for part in parts if part is not None])
    assert np.array_equal(shown, expected[: len(shown)])


def test_measuring_decides_whether_chunks_overlap(contract_of_one: None, folder: Path, monkeypatch: pytest.MonkeyPatch):
    engines = Engines(EngineOptions(artifact=str(folder), device="cpu", overlap="auto"))
    assert not engines.overlap
    monkeypatch.setattr(engines, "_time", lambda overlap: 151.0 if overlap else 270.0)
    assert engines.measure().step_ms == 151 and engines.overlap
    monkeypatch.setattr(engines, "_time", lambda overlap: 151.0 if overlap else 38.0)
    assert engines.measure().step_ms == 38 and not engines.overlap


def test_a_stream_ends_when_nothing_of_it_is_under_way(
    contract_of_one: None, folder: Path, portrait, voices, monkeypatch: pytest.MonkeyPatch
):
    """Its engine may be started for another session at once, also by itself."""
    engines, go = Engines(EngineOptions(artifact=str(folder), device="cpu", overlap="on")), threading.Event()
    engines.start("a", portrait, 3)
    engine = engines.engines["a"]
    denoise = engine.denoise

    def late(*given: object) -> object:
        assert go.wait(60)
        return denoise(*given)

    monkeypatch.setattr(engine, "denoise", late)
    assert engines.step("a", *chunks(voices)[0]) is None
    with ThreadPoolExecutor(1) as caller:
        stopped = caller.submit(engines.stop, "a")
        with pytest.raises(TimeoutError):
            stopped.result(0.2)
        assert not engines.free
        go.set()
        stopped.result(60)
    assert engines.free == [engine]


def test_sessions_share_the_weights_and_have_engines_before_they_come(contract_of_one: None, folder: Path, portrait):
    engines = Engines(EngineOptions(artifact=str(folder), device="cpu", slots=2))
    made = set(engines.free)
    assert len(made) == 2 and engines.reserve(3) == 3 and engines.reserve(1) == 3
    for name in "abc":
        engines.start(name, portrait, 1)
    first, *others = engines.engines.values()
    assert made < {first, *others} and not engines.free
    for other in others:
        assert other.rollout.model is first.rollout.model and other.rollout.cache.k is not first.rollout.cache.k


def test_no_more_engines_are_made_than_fit_into_memory(
    contract_of_one: None, folder: Path, monkeypatch: pytest.MonkeyPatch
):
    engines = Engines(EngineOptions(artifact=str(folder), device="cpu"))
    monkeypatch.setattr("serve.live.avatar.engines.slots_that_fit", lambda *given, **more: 2)
    assert engines.reserve(9) == 3
