"""Stages that last as long as the settings say: in the engine, in the queue's reckoning, and before a real browser."""

import asyncio
import shutil
import time
from pathlib import Path

import numpy as np
import pytest

from serve.artifact import Artifact
from serve.bench.browser import BROWSERS
from serve.bench.live import bench
from serve.bench.stages import StagedEngine, check_stages
from serve.live.avatar.engine_process import EngineProcess
from serve.live.avatar.engines import EngineOptions
from serve.live.avatar.overlap import Measured
from tests.serve.conftest import started

CHARACTER = Path(__file__).parents[3] / "weights" / "character"
DENOISE_MS, DECODE_MS = 151.0, 119.0  # as Runway describes its own


def test_frames_are_the_engines_and_each_stage_lasts_as_long_as_it_is_set_to(
    artifact: Artifact, portrait: np.ndarray, voices
):
    plain = started(artifact, portrait, voices, seed=3)
    staged = StagedEngine(artifact, seed=3, denoise_ms=60.0, decode_ms=40.0)
    staged.start(portrait)
    staged.push(*(np.tile(voice, 4) for voice in voices))
    emitted = []
    for _ in range(2):
        begin = time.perf_counter()
        latents = staged.denoise(staged.take(), lambda x: emitted.append(time.perf_counter()))
        between = time.perf_counter()
        frames = staged.decode(latents)
        assert emitted.pop() - begin >= 0.06 and time.perf_counter() - between >= 0.04
        assert np.array_equal(frames, plain.step())


@pytest.mark.parametrize("stages", [[151], [1, 2, 3], [-1, 5], ["a", 2]])
def test_stages_are_two_times(stages: list):
    with pytest.raises(ValueError, match="must be two times in ms"):
        check_stages(stages)


def process_of(found: Measured, monkeypatch: pytest.MonkeyPatch) -> EngineProcess:
    """One that has measured this, and whose calls are answered at once."""

    async def submit(process: EngineProcess, name: str, arguments: tuple, timeout_s: float) -> Measured | None:
        return found if name == "measure" else None

    monkeypatch.setattr(EngineProcess, "_submit", submit)
    return EngineProcess(EngineOptions(artifact="none", slots=9), max_load=0.9)


@pytest.mark.parametrize(("overlap", "room"), [(True, 0), (False, 8)])
def test_an_overlapped_chunk_that_is_answered_at_once_still_counts_as_what_it_takes(
    overlap: bool, room: int, monkeypatch: pytest.MonkeyPatch
):
    """It was made between two calls. Else sessions would be let in for whom there is no time."""
    found = Measured(overlap=overlap, chunk_ms=167.0, sequential_ms=180.0, overlapped_ms=100.0)

    async def run() -> int:
        process = process_of(found, monkeypatch)
        await process.measure()
        for _ in range(200):
            await process.call("step", "a", within_s=0.3)
        return process.room

    assert asyncio.run(run()) == room


@pytest.mark.acceptance
@pytest.mark.skipif(not any(map(shutil.which, BROWSERS)), reason="no Chromium: apt-get install chromium")
@pytest.mark.parametrize("overlap", ["auto", "off"])
def test_stages_that_are_too_slow_one_by_one_are_overlapped_and_without_that_the_server_says_so(overlap: str):
    """What the numbers are on a quiet machine: docs/results.md. Here, what no load can change."""
    pytest.importorskip("playwright")
    settings = [f"overlap={overlap}", "size=128", "port=8229", "store=null"]
    stages = [DENOISE_MS, DECODE_MS]
    report = asyncio.run(bench(str(CHARACTER), seconds=10.0, sessions=1, overrides=settings, stages=stages))
    said = " ".join(report["said"])
    seen = report["alone"]
    assert seen["seconds"] > 5 and not seen["errors"]
    if overlap == "auto":
        assert "overlap on: a chunk of 167 ms takes" in said and "overlapped" in said
        assert DENOISE_MS <= report["chunk_ms"]["start"] < 0.9 * (DENOISE_MS + DECODE_MS)
    else:
        assert "overlap off: as configured" in said and "the picture will stutter" in said
        assert report["chunk_ms"]["start"] >= DENOISE_MS + DECODE_MS
        assert seen["stalls"] > 0 and seen["fps"] < 23.5
