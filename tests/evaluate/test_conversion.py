"""What conversion costs: when the first frame is counted, what is relative to what, and that the picture shows it."""

import json
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tqdm import tqdm

from evaluate import conversion
from evaluate.conversion import Conversion, draw, name_of, report_of, timed_play
from evaluate.variants import Variant
from gwm.chunks import whole_clip
from serve.artifact import Artifact
from serve.engine import Engine
from serve.many_steps import with_length
from tests.evaluate.test_comparison import CAUSAL, FRAMES, STUDENT, Judged, case, save
from tests.tiny import tiny_vae

ROOT = Path(__file__).parents[2]
REPORT = json.loads((ROOT / "evaluate" / "results" / "conversion_cpu.json").read_text())
MANY = Variant(stage="bidirectional", run="bidirectional", many_steps=3)


@pytest.fixture
def causal(tmp_path: Path) -> Artifact:
    save(tmp_path, CAUSAL)
    return CAUSAL.load(tmp_path, tiny_vae())


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> None:
    """The portrait takes 100 s, a chunk 10 s, its decoding 1 s; nothing else takes any."""
    now = 0.0

    def slow(name: str, seconds: float) -> None:
        own = getattr(Engine, name)

        def took(*values: Any) -> Any:
            nonlocal now
            now += seconds
            return own(*values)

        monkeypatch.setattr(Engine, name, took)

    for name, seconds in (("start", 100.0), ("denoise", 10.0), ("decode", 1.0)):
        slow(name, seconds)
    monkeypatch.setattr(conversion.time, "process_time", lambda: now)


@pytest.mark.usefixtures("clock", "unchecked")
def test_a_stream_waits_for_a_chunk_and_a_whole_clip_for_its_end(causal: Artifact):
    shown, rules = case("a"), causal.contract
    chunks, length_s = FRAMES // rules.chunk_pixel_frames, FRAMES / rules.fps
    assert chunks > 1
    stream = timed_play(causal, shown, seed=3)
    chunk_s = (rules.chunk_pixel_frames + rules.lookahead_samples / rules.audio.frame_samples) / rules.fps
    assert stream.times == pytest.approx(
        {
            "first_frame_s": 111.0,
            "from_sound_s": 111.0 + min(chunk_s, length_s),
            "seconds_per_second": (100.0 + 11.0 * chunks) / length_s,
        }
    )
    expected, _ = Engine(causal, seed=3).play(shown.reference, shown.voices.agent, shown.voices.user, num_frames=FRAMES)
    assert np.array_equal(stream.frames, expected) and stream.brows is None  # its latents are no codes
    sees_all = rules.replace(pattern=whole_clip(rules.horizon_frames + 1, first_frames=1))
    whole = timed_play(with_length(replace(causal, contract=sees_all), FRAMES), shown, seed=3)
    assert whole.times == pytest.approx(
        {"first_frame_s": 111.0, "from_sound_s": 111.0 + length_s, "seconds_per_second": 111.0 / length_s}
    )


def row(lip_sync: float, seconds: float, **more: float) -> dict[str, float]:
    times = {"first_frame_s": seconds, "from_sound_s": 2 * seconds, "seconds_per_second": 3 * seconds}
    return {"lip_sync": lip_sync, "motion": 0.5} | times | more


def test_measures_are_means_relative_to_the_renders_and_times_are_medians():
    renders = [{"lip_sync": 0.8, "motion": 1.0, "brows": 0.0}, {"lip_sync": 0.4, "motion": 1.0, "brows": 0.0}]
    rows = [row(0.3, 1.0, brows=0.1), row(0.6, 2.0, brows=0.1), row(0.3, 60.0, brows=0.1)]
    report = report_of([MANY, CAUSAL, STUDENT, replace(STUDENT, sigmas=[1.0])], [rows, rows, rows, rows], renders)
    assert list(report["variants"]) == [
        "bidirectional, 3 steps",
        "causal, 3 steps",
        "student, 2 steps",
        "student, 1 step",
    ]
    found = report["variants"]["causal, 3 steps"]
    assert report["clips"] == 2 and report["renders"]["lip_sync"] == pytest.approx(0.6)
    assert found["of_renders"] == pytest.approx({"lip_sync": 2 / 3, "motion": 0.5})  # nothing is relative to 0
    assert [found[name] for name in ("first_frame_s", "from_sound_s", "seconds_per_second")] == [2.0, 4.0, 6.0]


@pytest.mark.usefixtures("unchecked")
def test_clips_that_were_measured_are_kept(causal: Artifact, tmp_path: Path):
    """Until another seed, other data or other weights are asked for."""
    judge = Judged()
    asked = Conversion(tmp_path, tmp_path / "kept", [case("a"), case("bb")], judge, 0, "data")  # type: ignore[arg-type]
    bar = tqdm(disable=True)
    first = asked.rows(CAUSAL, causal, bar)
    assert judge.calls == 2 and first[0]["lip_sync"] != first[1]["lip_sync"]
    assert asked.rows(CAUSAL, causal, bar) == first and judge.calls == 2
    for other in (replace(asked, seed=1), replace(asked, data="other")):
        other.rows(CAUSAL, causal, bar)
    save(tmp_path, CAUSAL)
    asked.rows(CAUSAL, causal, bar)
    assert judge.calls == 8


def test_the_committed_shares_are_those_of_the_committed_measures():
    names = [name_of(Variant(stage="dmd", run="dmd", sigmas=[1.0 - 0.1 * k for k in range(n)])) for n in (4, 2, 1)]
    assert list(REPORT["variants"])[2:] == names
    for found in REPORT["variants"].values():
        assert set(found["of_renders"]) == set(conversion.RELATIVE)
        for name, share in found["of_renders"].items():
            assert share == pytest.approx(found[name] / REPORT["renders"][name])


def places(svg: str) -> list[tuple[str, str]]:
    """Of all marks and ticks in a picture."""
    return re.findall(r'<use xlink:href="#\w+" x="([\d.]+)" y="([\d.]+)"', svg)


def words(svg: str) -> list[str]:
    return re.findall(r"<!-- (.*?) -->", svg)


def test_the_picture_in_the_docs_is_of_the_committed_numbers(tmp_path: Path):
    draw(tmp_path / "drawn.svg", REPORT)
    drawn, shown = (tmp_path / "drawn.svg").read_text(), (ROOT / "docs" / "conversion.svg").read_text()
    assert words(shown) == words(drawn) and len(places(shown)) > 20
    assert np.array(places(shown), float) == pytest.approx(np.array(places(drawn), float), abs=0.5)
