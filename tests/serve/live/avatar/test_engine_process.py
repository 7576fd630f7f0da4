"""The engine in its own process: the same pixels, and a new process after the old one is killed."""

import asyncio
import os
import signal
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from serve.applied import Applied
from serve.artifact import Artifact, load_artifact
from serve.engine import Engine
from serve.live.avatar import engine_process
from serve.live.avatar.changes import Act, ChangeRefusedError, Rewind, SetPrompt
from serve.live.avatar.engine_process import EngineOptions, EngineProcess, Engines, ProcessFace
from serve.live.avatar.performer import FaceLostError
from tests.serve.world import TEXT, world

CHUNK = 4_000


@pytest.fixture(autouse=True)
def busy_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where ten others share the cores, a step takes half a minute."""
    monkeypatch.setattr(engine_process, "STEP_TIMEOUT_S", 600.0)


@pytest.fixture
def contract_of_one(contract):
    if contract.pattern.chunk_frames != 1:
        pytest.skip("one size suffices: a process takes seconds to start")


def chunks(voices) -> list[tuple[np.ndarray, np.ndarray]]:
    agent, user = (voice[: len(voice) // CHUNK * CHUNK].reshape(-1, CHUNK) for voice in voices)
    return list(zip(agent, user))


@pytest.mark.slow
def test_process_draws_what_the_engine_draws_and_comes_back_when_killed(
    contract_of_one: None, folder: Path, artifact: Artifact, portrait: np.ndarray, voices
):
    expected, _ = Engine(artifact, seed=3).play(portrait, *voices)

    async def run() -> None:
        process = EngineProcess(EngineOptions(artifact=str(folder), device="cpu"))
        face = ProcessFace(process, "a", portrait, seed=3)
        try:
            for life in range(2):
                await face.start()
                frames = [await face.step(agent, user, interrupted=False) for agent, user in chunks(voices)]
                assert frames[0] is None  # the lookahead is not there yet
                shown = np.concatenate([part for part in frames if part is not None])
                assert np.array_equal(shown, expected[: len(shown)])
                assert process.restarts == life and await process.call("count") == 1
                await face.stop()
                assert await process.call("count") == 0  # its engine, and the cache with it, is given back
                assert process.pid is not None
                os.kill(process.pid, signal.SIGKILL)
                with pytest.raises(FaceLostError, match="the engine process is gone"):
                    await face.step(*chunks(voices)[0], interrupted=False)
        finally:
            await process.close()

    asyncio.run(run())


@pytest.mark.slow
def test_an_engine_that_says_nothing_is_lost(contract_of_one: None, folder: Path, monkeypatch: pytest.MonkeyPatch):
    async def run() -> None:
        process = EngineProcess(EngineOptions(artifact=str(folder), device="cpu"))
        try:
            await process.start()
            assert process.pid is not None
            os.kill(process.pid, signal.SIGSTOP)
            monkeypatch.setattr(engine_process, "STEP_TIMEOUT_S", 0.1)
            with pytest.raises(FaceLostError, match="no answer within 0 s"):
                await process.call("count")
        finally:
            await process.close()

    asyncio.run(run())


def test_hush_silences_what_was_pushed_and_not_shown(
    contract_of_one: None, folder: Path, artifact: Artifact, portrait: np.ndarray, voices
):
    """A chunk that is hushed before it was shown leaves no trace: it might as well have been silence."""
    silence = np.zeros_like(voices[0])
    expected, _ = Engine(artifact, seed=3).play(portrait, silence, voices[1])
    engines = Engines(EngineOptions(artifact=str(folder), device="cpu"))
    engines.start("a", portrait, 3)
    (agent, user), *rest = chunks(voices)
    assert engines.step("a", agent, user, False) is None
    parts = [engines.step("a", 0 * agent, user, number == 0) for number, (agent, user) in enumerate(rest)]
    shown = np.concatenate([part for part in parts if part is not None])
    assert np.array_equal(shown, expected[: len(shown)])


def test_an_engine_whose_session_has_ended_serves_the_next_as_a_new_one_would(
    contract_of_one: None, folder: Path, artifact: Artifact, portrait: np.ndarray, voices
):
    """Storage and graphs are made once; a portrait that does not fit costs nothing."""
    engines = Engines(EngineOptions(artifact=str(folder), device="cpu"))
    engines.start("a", portrait, 1)
    first = engines.engines["a"]
    engines.step("a", *chunks(voices)[0], False)
    engines.stop("a")
    with pytest.raises(ValueError, match="portrait of 16x48 px must be 32x48, height x width"):
        engines.start("b", portrait[:16], 2)
    engines.start("c", portrait, 3)
    assert engines.engines == {"c": first} and not engines.free
    expected, _ = Engine(artifact, seed=3).play(portrait, *voices)
    parts = [engines.step("c", agent, user, False) for agent, user in chunks(voices)]
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
        made.append(engines.step("a", silence, silence, False))
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
    again = [engines.step("a", silence, silence, False) for _ in range(2)]
    assert np.array_equal(np.concatenate(again), np.concatenate(made[4:]))
    assert "must be in [0, 2]" in str(engines.change("a", Rewind(3)))
    assert "must be one of" in str(engines.change("a", Act({"up": 1})))


def test_a_conversation_that_goes_back_goes_on_with_the_sound_of_now(
    contract_of_one: None, folder: Path, portrait: np.ndarray, voices
):
    """Chunks 1 and 2 are taken back: what follows is as if their sound had never been pushed."""
    engines, straight = (Engines(EngineOptions(artifact=str(folder), device="cpu", undo_chunks=2)) for _ in range(2))
    for each in (engines, straight):
        each.start("a", portrait, 3)
    agent, user = (np.tile(voice, 2) for voice in voices)
    parts = [(a, u) for a, u in zip(agent[: 8 * CHUNK].reshape(-1, CHUNK), user[: 8 * CHUNK].reshape(-1, CHUNK))]
    for part in parts[:4]:  # shows chunks 0, 1 and 2; the fourth is looked ahead to
        engines.step("a", *part, False)
    assert engines.change("a", Rewind(2)).chunk == 1
    for part in parts[:2]:  # the lookahead of chunk 0, as it was, is part 1
        straight.step("a", *part, False)
    hearing = straight.engines["a"].hearing
    hearing.samples[:, hearing.past_samples :] = torch.from_numpy(np.stack(parts[3]))
    for part in parts[4:]:
        rest = engines.step("a", *part, False), straight.step("a", *part, False)
        assert rest[0] is not None and np.array_equal(*rest)


def test_a_prompt_for_a_model_without_text_is_refused(contract_of_one: None, folder: Path, portrait: np.ndarray):
    async def run() -> None:
        face = ProcessFace(EngineProcess(EngineOptions(artifact=str(folder), device="cpu")), "a", portrait, seed=3)
        with pytest.raises(ChangeRefusedError, match="the model has no text condition"):
            await face.change(SetPrompt("rain"))
        face.process._thread.shutdown()

    asyncio.run(run())


def test_an_engine_that_does_not_fit_into_memory_names_its_bytes(
    contract_of_one: None, folder: Path, portrait: np.ndarray, monkeypatch: pytest.MonkeyPatch
):
    engines = Engines(EngineOptions(artifact=str(folder), device="cpu"))
    monkeypatch.setattr("serve.memory.host_bytes", lambda: 1)
    with pytest.raises(RuntimeError, match="must fit into the 1 bytes that are free on cpu"):
        engines.start("a", portrait, 1)


def test_a_call_for_a_session_that_is_unknown_is_refused_and_ends_nothing(contract_of_one: None, folder: Path):
    engines = Engines(EngineOptions(artifact=str(folder), device="cpu"))
    engines.stop("nobody")
    assert engines.count() == 0
    with pytest.raises(KeyError):
        engines.step("nobody", np.zeros(CHUNK, np.float32), np.zeros(CHUNK, np.float32), False)


class Recorded(EngineProcess):
    """Answers every call and keeps its arguments."""

    def __init__(self) -> None:
        self.numbers: list[Any] = []

    async def start(self) -> None:
        """There is no process."""

    async def call(self, name: str, *arguments: Any) -> Any:
        if name == "change":
            self.numbers.append(arguments[1].action)
        return Applied(0, 0.0)


def test_a_new_engine_gets_the_manner_and_all_numbers_that_hold(portrait: np.ndarray):
    """And whoever releases all of them has the character's own manner back."""

    async def run() -> list[Any]:
        process = Recorded()
        face = ProcessFace(process, "a", portrait, seed=0, manner={"joy": 0.3})
        await face.start()
        await face.change(Act({"anger": 0.5}))
        await face.change(Act({"joy": 1, "anger": None}))
        await face.start()
        await face.change(Act(None))
        await face.start()
        return process.numbers

    whole, own = {"joy": 1, "anger": None}, {"joy": 0.3}
    assert asyncio.run(run()) == [own, {"anger": 0.5}, whole, whole, None, own, own]
