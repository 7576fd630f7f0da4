"""A run is judged row by row; what it did not measure is neither reached nor missed."""

import copy
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from serve.bench.live_numbers import drift, growth, keep, picture, spread, verdict, verdict_table

SIZE = {"change_percent": 1.0}
GOOD: dict[str, Any] = {
    "alone": {
        "seconds": 600.0,
        "fps": 23.9,
        "freezes": 0,
        "rtp_over_wall": 1.001,
        "video_minus_audio_ms": {"p50": -13.0, "moved": 5.0, "count": 100},
        "memory_mb": {"server": SIZE, "engines": SIZE},
        "answer_ms": {part: {"p50": 200.0} for part in ("total", "turn", "stt", "llm", "tts", "chunk", "pacing")},
        "silent_after_interruption_ms": {"max": 30.0},
        "lead_ms": {"max": 290.0},
        "stalls": 0,
        "errors": [],
    },
    "flash_minus_beep_ms": {
        "server": {"p50": -70.0, "moved": 5.0, "count": 50},
        "bias": {"p50": -55.0, "moved": 5.0, "count": 50},
    },
}


def judged(report: dict[str, Any], what: str) -> bool | None:
    (row,) = (row for row in verdict(report) if row["what"].startswith(what))
    return row["reached"]


def with_value(path: str, value: Any) -> dict[str, Any]:
    report = copy.deepcopy(GOOD)
    *folders, name = path.split(".")
    part = report
    for folder in folders:
        part = part[folder]
    part[name] = value
    return report


def test_a_good_run_reaches_everything():
    assert all(row["reached"] for row in verdict(GOOD))


@pytest.mark.parametrize(
    ("path", "value", "what"),
    [
        ("alone.fps", 23.4, "frames per second"),
        ("alone.freezes", 1, "freezes"),
        ("alone.rtp_over_wall", 0.994, "RTP clock"),
        ("alone.video_minus_audio_ms.p50", -46.0, "picture behind sound, by the browser"),
        ("alone.video_minus_audio_ms.moved", 21.0, "the same, moved over the run, by the browser"),
        ("flash_minus_beep_ms.server.p50", -101.0, "picture behind sound, by flash"),
        ("flash_minus_beep_ms.server.moved", -21.0, "the same, moved over the run, by flash"),
        ("alone.memory_mb.server", {"change_percent": 5.1}, "memory of the server"),
        ("alone.memory_mb.engines", {"change_percent": 5.1}, "memory of the engines"),
        ("alone.answer_ms.total", {"p50": 1_751.0}, "end of speech"),
        ("alone.silent_after_interruption_ms", {"max": 151.0}, "silent after"),
        ("alone.lead_ms", {"max": 401.0}, "engine ahead"),
        ("alone.stalls", 1, "stalls of sound and picture"),
        ("alone.errors", ["The voice does not work"], "errors"),
    ],
)
def test_each_limit_is_looked_at(path: str, value: Any, what: str):
    assert judged(GOOD, what) is True and judged(with_value(path, value), what) is False


def test_a_report_of_measured_numbers_is_kept_as_json(tmp_path: Path):
    """numpy's numbers compare to numpy's truth, which JSON does not know."""
    at = 1000 / 24 * np.arange(241)
    alone = GOOD["alone"] | picture({"times": at, "clock": 3_750 * np.arange(241)})
    alone |= {"lead_ms": spread([200, 410]), "video_minus_audio_ms": drift([-40.0] * 8)}
    alone["memory_mb"] = {"server": growth([700.0] * 60, every_s=1.0)}
    keep(GOOD | {"alone": alone}, str(tmp_path / "live.json"))
    rows = json.loads((tmp_path / "live.json").read_text())["verdict"]
    assert [row["what"] for row in rows if row["reached"] is False] == ["engine ahead of playout, most"]


def test_what_was_not_measured_is_said_to_be_so():
    report = with_value("alone.answer_ms", {})
    report["alone"] |= {"video_minus_audio_ms": {"count": 0, "moved": 0.0}, "stalls": None}
    assert judged(report, "stalls") is None
    assert judged(report, "end of speech") is None and judged(report, "its parts") is None
    assert judged(report, "picture behind sound, by the browser") is None
    assert judged(report, "the same, moved over the run, by the browser") is None
    assert "not measured" in verdict_table(verdict(report))


@pytest.mark.parametrize(
    ("status", "retry_after", "reached"), [(429, "30", True), (429, None, False), (201, "1", False)]
)
def test_others_must_be_refused_and_told_when_to_come_back(status: int, retry_after: str | None, reached: bool):
    report = GOOD | {
        "with_others_knocking": GOOD["alone"] | {"fps": 20.0},
        "others": [{"status": status, "retry_after": retry_after}],
    }
    assert judged(report, "the others are refused") is reached
    assert judged(report, "frames per second while others knock") is False


def test_a_chunk_must_take_as_long_as_the_slower_stage_where_stages_are_set():
    stages = {"stages_ms": {"denoise": 151.0, "decode": 119.0}}
    for chunk_ms, reached in ((151.5, True), (160.0, False), (270.0, False)):
        assert judged(GOOD | stages | {"chunk_ms": {"start": chunk_ms}}, "from chunk to chunk") is reached
    assert not [row for row in verdict(GOOD) if row["what"].startswith("from chunk to chunk")]
