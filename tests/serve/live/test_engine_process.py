"""The engine in its own process: the same pixels, and a new process after the old one is killed."""

import asyncio
import os
import signal
from pathlib import Path

import numpy as np
import pytest

from serve.artifact import Artifact
from serve.engine import Engine
from serve.live.engine_process import EngineProcess, Engines, ProcessFace
from serve.live.performer import FaceLostError

CHUNK = 4_000


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
        process = EngineProcess(str(folder), device="cpu")
        face = ProcessFace(process, "a", portrait, seed=3)
        try:
            for life in range(2):
                await face.start()
                frames = [await face.step(agent, user, hush=False) for agent, user in chunks(voices)]
                assert frames[0] is None  # the lookahead is not there yet
                shown = np.concatenate([part for part in frames if part is not None])
                assert np.array_equal(shown, expected[: len(shown)])
                assert process.restarts == life and await process.call("count") == 1
                await face.stop()
                assert await process.call("count") == 0  # its engine, and the cache with it, is given back
                assert process.pid is not None
                os.kill(process.pid, signal.SIGKILL)
                with pytest.raises(FaceLostError, match="the engine process is gone"):
                    await face.step(*chunks(voices)[0], hush=False)
        finally:
            await process.close()

    asyncio.run(run())


def test_hush_silences_what_was_pushed_and_not_shown(
    contract_of_one: None, folder: Path, artifact: Artifact, portrait: np.ndarray, voices
):
    """A chunk that is hushed before it was shown leaves no trace: it might as well have been silence."""
    silence = np.zeros_like(voices[0])
    expected, _ = Engine(artifact, seed=3).play(portrait, silence, voices[1])
    engines = Engines(str(folder), device="cpu", num_threads=1)
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
    engines = Engines(str(folder), device="cpu", num_threads=1)
    engines.start("a", portrait, 1)
    first = engines.engines["a"]
    engines.step("a", *chunks(voices)[0], False)
    engines.stop("a")
    with pytest.raises(ValueError, match="portrait of 16x32"):
        engines.start("b", portrait[:16], 2)
    engines.start("c", portrait, 3)
    assert engines.engines == {"c": first} and not engines.free
    expected, _ = Engine(artifact, seed=3).play(portrait, *voices)
    parts = [engines.step("c", agent, user, False) for agent, user in chunks(voices)]
    shown = np.concatenate([part for part in parts if part is not None])
    assert np.array_equal(shown, expected[: len(shown)])


def test_an_engine_that_does_not_fit_into_memory_names_its_bytes(
    contract_of_one: None, folder: Path, portrait: np.ndarray, monkeypatch: pytest.MonkeyPatch
):
    engines = Engines(str(folder), device="cpu", num_threads=1)
    monkeypatch.setattr("serve.memory.host_bytes", lambda: 1)
    with pytest.raises(RuntimeError, match="must fit into the 1 bytes that are free on cpu"):
        engines.start("a", portrait, 1)


def test_a_call_for_a_session_that_is_unknown_is_refused_and_ends_nothing(contract_of_one: None, folder: Path):
    engines = Engines(str(folder), device="cpu", num_threads=1)
    engines.stop("nobody")
    assert engines.count() == 0
    with pytest.raises(KeyError):
        engines.step("nobody", np.zeros(CHUNK, np.float32), np.zeros(CHUNK, np.float32), False)
