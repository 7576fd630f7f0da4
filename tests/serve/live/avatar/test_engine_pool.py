"""Engine processes whose chunks sleep: where sessions are placed, how many fit, and a process that dies."""

import asyncio
import os
import signal

import numpy as np
import pytest

from serve.bench import turned_clock
from serve.bench.sessions import CHUNK_S, PACKET, TIMING, Viewer
from serve.live.avatar import overlap
from serve.live.avatar.engine_pool import EnginePool
from serve.live.avatar.engine_process import EngineProcess
from serve.live.avatar.engines import EngineOptions
from serve.live.avatar.overlap import Measured
from serve.live.avatar.process_face import ProcessFace
from serve.live.gauges import Gauges
from serve.live.http.admission import Admission
from serve.live.http.refusals import FullError
from tests.serve.live.http.test_admission import Visit
from tests.serve.live.sleeping_engines import STEP_S, serve_sleeping

PORTRAIT = np.zeros((2, 2, 3), np.uint8)
LIMIT_S = 600.0
MAX_LOAD = 8.5 * STEP_S / CHUNK_S


def pool(*devices: str, capacity: int | None = None) -> EnginePool:
    return EnginePool(
        EngineOptions(artifact="none"), list(devices), capacity=capacity, max_load=MAX_LOAD, serve=serve_sleeping
    )


def measured(made: EnginePool, *step_s: float, slots: int = 99) -> EnginePool:
    """As after `start`."""
    for process, cost_s in zip(made.processes, step_s, strict=True):
        process.queue.measured(period_s=CHUNK_S, cost_s=cost_s)
        process.options = EngineOptions(artifact="none", slots=slots)
    return made


def test_the_ninth_session_has_to_wait_and_the_engines_say_so():
    engines = measured(pool("cpu"), STEP_S)
    places = Admission(capacity=lambda: engines.capacity, retry_after_s=30, gauges=Gauges())
    for number in range(8):
        engines.place(places.open(Visit, str(number)).id)
    assert engines.capacity == 8 and places.free == 0
    with pytest.raises(FullError, match="All 8 places are taken"):
        places.open(Visit, "the ninth")
    first = next(iter(places.sessions.values()))
    asyncio.run(first.close("left"))
    engines.processes[0].queue.close(first.id)
    places.open(Visit, "the ninth")


def test_there_is_room_as_long_as_chunks_take_what_was_measured_and_memory_lasts():
    engines = measured(pool("cpu"), STEP_S)
    engines.place("a")
    assert engines.capacity == 8
    for _ in range(20):
        engines.processes[0].queue.scheduler.done("a", took_s=3 * STEP_S)  # somebody else uses the machine
    assert engines.capacity == 6
    assert measured(pool("cpu"), STEP_S, slots=3).capacity == 3
    assert measured(pool("cpu"), 10 * CHUNK_S).capacity == 1  # so that there is something
    assert measured(pool("cpu", capacity=2), 10 * CHUNK_S).capacity == 2


def test_sessions_are_placed_where_there_is_most_room():
    engines = measured(pool("cuda:0", "cuda:1"), STEP_S, 2 * STEP_S)
    placed = [engines.place(str(number)).options for number in range(6)]
    counts = [process.sessions for process in engines.processes]
    assert engines.capacity == 12 and len(placed) == 6 and counts == [5, 1]


def test_why_chunks_overlap_is_what_the_first_device_found(monkeypatch: pytest.MonkeyPatch):
    """All are measured again at the same time, in the mode that was chosen: that says nothing about why."""
    modes = []

    async def ready(process: EngineProcess) -> None: ...

    async def submit(process: EngineProcess, name: str, arguments: tuple, timeout_s: float) -> Measured | int:
        if name == "reserve":
            return arguments[0]
        modes.append(process.options.overlap)
        return overlap.measured(modes[-1], chunk_ms=167.0, time=lambda both: 90.0 if both else 150.0)

    monkeypatch.setattr(EngineProcess, "start", ready)
    monkeypatch.setattr(EngineProcess, "_submit", submit)
    options = EngineOptions(artifact="none", overlap="auto")
    found = asyncio.run(EnginePool(options, ["cuda:0", "cuda:1"]).start())
    assert found.reason == "a chunk of 167 ms takes 150 ms by itself and 90 ms overlapped"
    assert modes == ["auto", "on", "on"]


@pytest.mark.parametrize(("step_ms", "said"), [(180.0, "will stutter"), (150.0, "may stutter"), (60.0, "")])
def test_the_log_says_at_the_start_that_chunks_take_too_long(
    step_ms: float, said: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
):
    """As for stages of 100 and 80 ms one after the other, for chunks of 167."""

    async def ready(process: EngineProcess) -> None: ...

    async def submit(process: EngineProcess, name: str, arguments: tuple, timeout_s: float) -> Measured | int:
        return arguments[0] if name == "reserve" else overlap.measured("off", chunk_ms=167.0, time=lambda both: step_ms)

    monkeypatch.setattr(EngineProcess, "start", ready)
    monkeypatch.setattr(EngineProcess, "_submit", submit)
    asyncio.run(EnginePool(EngineOptions(artifact="none", overlap="off"), ["cpu"]).start())
    warned = [line.getMessage() for line in caplog.records if line.levelname == "WARNING"]
    assert len(warned) == bool(said) and all(said in line for line in warned)


@pytest.mark.slow
def test_eight_sessions_come_back_when_their_process_is_killed_and_their_voices_go_on():
    """The voice goes on: what is lost is the picture alone. On a turned clock, which stands while a process works: how
    fast this machine starts one, or makes a chunk, changes nothing."""

    async def run() -> None:
        engines = pool("cpu")
        try:
            await engines.start()
            assert engines.capacity == 8
            faces = [ProcessFace(engines.place(name), name, PORTRAIT, seed=0) for name in "abcdefgh"]
            viewers = [Viewer(face) for face in faces]
            watching = [asyncio.create_task(viewer.watch(LIMIT_S)) for viewer in viewers]
            await asyncio.sleep(3.0)
            before = [viewer.outcomes.copy() for viewer in viewers]
            process = engines.processes[0]
            assert process.pid is not None
            os.kill(process.pid, signal.SIGKILL)
            loop = asyncio.get_running_loop()
            begin_s, begin_samples = loop.time(), [v.performer.playout.played_samples for v in viewers]
            async with asyncio.timeout(LIMIT_S):
                while any(v.outcomes["in_time"] < counts["in_time"] + 9 for v, counts in zip(viewers, before)):
                    await asyncio.sleep(0.1)
            due_samples = TIMING.sample_rate * (loop.time() - begin_s)
            assert engines.numbers()[0].restarts == 1 and engines.numbers()[0].alive
            for viewer, earlier, samples in zip(viewers, before, begin_samples, strict=True):
                performer = viewer.performer
                assert earlier["in_time"] == earlier.total() > 12
                assert performer.losses == 1 and viewer.outcomes["no_picture"] > 0 == viewer.outcomes["late"]
                assert abs(performer.playout.played_samples - samples - due_samples) <= PACKET
            for task in watching:
                task.cancel()
        finally:
            await engines.close()

    turned_clock.run(run())
