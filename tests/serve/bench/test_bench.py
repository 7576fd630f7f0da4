import json
from pathlib import Path

import pytest
import torch

from serve.bench import __main__ as entry
from serve.bench.__main__ import bench
from serve.bench.case import Case
from serve.bench.measure import live
from serve.bench.timing import Stopwatch

TINY = Case(shape="nano", height=32, width=32, window_frames=4)
CPU = torch.device("cpu")


def run(out: Path, **changes: object) -> dict:
    settings = {
        "cases": [TINY],
        "ladders": [TINY],
        "artifact": None,
        "stopwatch": Stopwatch(CPU),
        "chunks": 4,
        "rounds": 2,
    }
    path = bench(**(settings | {"compile": False, "streams": [1, 3], "soak": 0, "out": out} | changes))
    return json.loads(path.read_text())


def test_a_run_leaves_every_number_that_was_promised(tmp_path: Path):
    results = run(tmp_path)
    row = results["cases"][0]
    assert row["host_reads_per_chunk"] == 0
    assert row["kernel_calls_per_pass"] > 14 * 4
    assert row["pass_ms"]["p50"] < row["denoise_ms"]["p50"] < row["chunk_ms"]["max"]
    assert 0 < row["roofline_fraction"] < 1
    assert row["first_frame_ms"]["cold"] > row["first_frame_ms"]["warm"] > 0
    ladder, caches = results["ladders"][0], results["caches"][0]
    assert list(ladder["chunk_ms"]) == ["concatenate cache", "roll cache", "ring"]
    moved = caches["cache_bytes_per_chunk"]
    assert moved["ring"] < moved["roll"] < moved["concatenate"] and moved["ring"] < moved["rotate_all"]
    assert {row["streams"] for row in results["sessions"][0]} == {1, 3}
    assert results["machine"]["torch"] == torch.__version__


def test_a_run_that_is_cut_off_leaves_what_it_had_measured(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    def cut_off(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(entry, "climb", cut_off)
    with pytest.raises(KeyboardInterrupt):
        run(tmp_path)
    results = json.loads(next(tmp_path.glob("*.json")).read_text())
    assert results["cases"][0]["case"] == TINY.name and "ladders" not in results


def test_chunks_slower_than_their_playing_time_stall_a_viewer():
    slow, quick = live([200.0] * 6, period_ms=100.0), live([50.0] * 6, period_ms=100.0)
    assert (slow["viewer"]["stalls"], slow["deadline_attainment"], slow["fps"]) == (5, 0.0, 12.0)
    assert (quick["viewer"]["stalls"], quick["deadline_attainment"], quick["fps"]) == (0, 1.0, 48.0)


def test_an_unknown_shape_is_an_error():
    with pytest.raises(ValueError, match="shape='wan9' must be one of"):
        Case(shape="wan9", height=64, width=64)
