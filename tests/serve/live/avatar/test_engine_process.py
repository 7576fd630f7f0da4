"""The engine in its own process: the same pixels, and a new process after the old one is killed."""

import asyncio
import multiprocessing
import os
import signal
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from serve.acts import Applied
from serve.artifact import Artifact
from serve.live.avatar import engine_process
from serve.live.avatar.changes import Act, ChangeRefusedError, SetPrompt
from serve.live.avatar.engine_pool import EnginePool
from serve.live.avatar.engine_process import EngineProcess
from serve.live.avatar.engines import EngineOptions
from serve.live.avatar.performer import FaceLostError
from serve.live.avatar.process_face import ProcessFace
from tests.serve.live.avatar.live_sound import chunks, played


@pytest.fixture(autouse=True)
def busy_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where ten others share the cores, a step takes half a minute."""
    monkeypatch.setattr(engine_process, "STEP_TIMEOUT_S", 600.0)


@pytest.fixture
def contract_of_one(contract):
    if contract.pattern.chunk_frames != 1:
        pytest.skip("one size suffices: a process takes seconds to start")


@pytest.mark.slow
@pytest.mark.parametrize("overlap", ["off", "on"])
def test_process_draws_what_the_engine_draws_and_comes_back_when_killed(
    contract_of_one: None, folder: Path, artifact: Artifact, portrait: np.ndarray, voices, overlap: str, monkeypatch
):
    said = list[str]()
    monkeypatch.setattr(engine_process.log, "info", lambda text, *given: said.append(text % given))
    expected = played(artifact, portrait, voices, seed=3)

    async def run() -> None:
        process = EngineProcess(EngineOptions(artifact=str(folder), device="cpu", overlap=overlap))
        face = ProcessFace(process, "a", portrait, seed=3)
        try:
            for life in range(2):
                await face.start()
                frames = [await face.step(agent, user) for agent, user in chunks(voices)]
                assert (frames[0] is None) == (overlap == "on") and all(part is not None for part in frames[1:])
                shown = np.concatenate([part for part in frames if part is not None])
                assert np.array_equal(shown, expected[: len(shown)])
                assert process.restarts == life and await process.count() == 1
                await face.stop()
                assert await process.count() == 0  # its engine, and the cache with it, is given back
                assert process.pid is not None
                os.kill(process.pid, signal.SIGKILL)
                with pytest.raises(FaceLostError, match="the engine process is gone"):
                    await face.step(*chunks(voices)[0])
        finally:
            await process.close()

    asyncio.run(run())
    assert (
        sum("1 threads, products by pytorch, decoder in float32" in line for line in said) == 2
    )  # as each life of the process computes


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
                await process.count()
        finally:
            await process.close()

    asyncio.run(run())


def test_processes_that_denoise_together_are_lost_and_ended_together(tmp_path: Path):
    context = multiprocessing.get_context("spawn")
    first, other = (context.Process(target=time.sleep, args=(600.0,), daemon=True) for _ in range(2))
    ours, theirs = context.Pipe()
    meeting = tmp_path / "engines" / "meeting"
    meeting.parent.mkdir()
    meeting.touch()
    child = engine_process._Child([first, other], ours, meeting)
    try:
        for process in (first, other):
            process.start()
        assert child.alive and not child.answered(0.0)
        other.kill()
        other.join()
        assert not child.alive and first.is_alive()
        with pytest.raises(EOFError, match="a process that denoises with it has ended"):
            child.answered(60.0)
        theirs.send("why")
        assert child.answered(60.0)  # what the first one says of it comes first
    finally:
        child.end()
    assert not first.is_alive() and ours.closed and not meeting.parent.exists()


@pytest.mark.slow
@pytest.mark.parametrize(("way", "dies"), [("ulysses", 1), ("tensor", 0)])
def test_two_processes_draw_what_one_draws_and_both_come_back_when_one_is_killed(
    contract_of_one: None, folder: Path, artifact: Artifact, portrait: np.ndarray, voices, way: str, dies: int
):
    """Two sessions take turns, and go on together in the new processes."""
    expected = [played(artifact, portrait, voices, seed=seed).astype(int) for seed in (3, 4)]

    async def run() -> None:
        engines = EnginePool(
            EngineOptions(artifact=str(folder), undo_chunks=1),
            [{"denoise": ["cpu", "cpu"], "decode": "cpu", "parallel": way}],
            capacity=2,
            max_load=1.0,
        )
        try:
            await engines.start()
            process = engines.processes[0]
            faces = [ProcessFace(engines.place(name), name, portrait, seed=seed) for name, seed in (("a", 3), ("b", 4))]
            for life in range(2):
                for face in faces:
                    await face.start()
                made = [[await face.step(agent, user) for face in faces] for agent, user in chunks(voices)]
                for frames, alone in zip(zip(*made, strict=True), expected, strict=True):
                    shown = np.concatenate([part for part in frames if part is not None]).astype(int)
                    assert np.abs(shown - alone[: len(shown)]).max() <= 1 and len(shown) > 8
                (numbers,) = engines.numbers()
                assert (numbers.device, numbers.alive, numbers.restarts) == ("cpu+cpu>cpu", True, life)
                again = await faces[0].retake(chunks(voices)[-1][0], within_s=1.0)
                assert np.abs(again.astype(int) - made[-1][0]).max() <= 1  # all processes go back by a chunk
                killed = process._child.processes[dies]
                os.kill(killed.pid, signal.SIGKILL)
                with pytest.raises(FaceLostError, match="the engine process is gone"):
                    await faces[0].step(*chunks(voices)[0])
                assert not engines.numbers()[0].alive
        finally:
            await engines.close()

    asyncio.run(run())


def test_a_prompt_for_a_model_without_text_is_refused(contract_of_one: None, folder: Path, portrait: np.ndarray):
    async def run() -> None:
        face = ProcessFace(EngineProcess(EngineOptions(artifact=str(folder), device="cpu")), "a", portrait, seed=3)
        with pytest.raises(ChangeRefusedError, match="the model has no text condition"):
            await face.change(SetPrompt("rain"))
        face.process._thread.shutdown()

    asyncio.run(run())


class Recorded(EngineProcess):
    """Answers every call and keeps its arguments."""

    def __init__(self) -> None:
        super().__init__(EngineOptions(artifact="none"))
        self.numbers: list[Any] = []

    async def start(self) -> None:
        """There is no process."""

    async def call(self, name: str, session: str, *arguments: Any, within_s: float | None = None) -> Any:
        if name == "change":
            self.numbers.append(arguments[0].action)
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
