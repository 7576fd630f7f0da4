"""The comparison's table: every variant is a row, what is missing says how to make it, what was measured is kept."""

import csv
import json
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from evaluate import lengths
from evaluate.cases import Case
from evaluate.comparison import Comparison, compare_all, shares
from evaluate.lengths import looks, meant_opening
from evaluate.variants import Variant
from gwm.metrics.judge import Voices
from gwm.weights import save_weights
from tests.tiny import contract, tiny_dit, tiny_vae
from train.networks import dit_header

pytestmark = pytest.mark.usefixtures("unchecked")  # the judge is a stand-in

HEIGHT, WIDTH, FRAMES = 32, 48, 12
CAUSAL = Variant(stage="causal", run="causal", many_steps=3)
STUDENT = Variant(stage="dmd", run="dmd", sigmas=[1.0, 0.6])
MISSING = Variant(stage="dmd", run="dmd1", sigmas=[1.0], context="noisy")


class Judged:
    """Measures the mean of the pixels, and counts."""

    skipped, embedding, mesh = {}, None, None
    calls = 0

    def __call__(self, frames: np.ndarray, **_: Any) -> tuple[dict[str, float], np.ndarray]:
        self.calls += 1
        return {"lip_sync": float(frames.mean()), "motion": 1.0}, np.zeros(len(frames))


def case(key: str) -> Case:
    rng = np.random.default_rng(len(key))
    render = rng.integers(0, 256, (FRAMES, HEIGHT, WIDTH, 3), dtype=np.uint8)
    sound = rng.normal(0, 0.1, 1000 * FRAMES).astype(np.float32)
    voices = Voices(agent=sound, user=-sound, listening=np.zeros(FRAMES, bool))
    return Case(
        key=key,
        style="anny",
        person=key,
        reference=render[0],
        render=render,
        mouth=np.arange(FRAMES) / 1.0,
        voices=voices,
    )


def save(runs: Path, variant: Variant) -> None:
    save_weights(variant.weights(runs), tiny_dit().state_dict(), dit_header(contract()))


def compared(runs: Path, **changes: Any) -> Comparison:
    how = {
        "runs": runs, "out": runs / "comparison",
        "vae": tiny_vae(), "cases": [case("a"), case("bb")], "judge": Judged(),
        "seed": 0, "lengths_s": [], "data": "",
    }  # fmt: skip
    return Comparison(**(how | changes))


def test_a_missing_rung_is_a_row_with_its_command_and_kept_clips_are_not_measured_again(tmp_path: Path):
    for variant in (CAUSAL, STUDENT):
        save(tmp_path, variant)
    first = compared(tmp_path)
    compare_all([CAUSAL, STUDENT, MISSING], first)
    with (tmp_path / "comparison" / "table.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [(row["variant"], row["steps"], row["context"], row["finished"]) for row in rows] == [
        ("causal", "3", "clean", "True"), ("dmd", "2", "clean", "True"), ("dmd1", "1", "noisy", "False"),
    ]  # fmt: skip
    command = f"python train.py stage=dmd name={tmp_path.name} runs={tmp_path} output={tmp_path / 'dmd1'} "
    assert rows[2]["error"].endswith(command + "stage.sigmas=[1.0] stage.context=noisy")
    assert (
        float(rows[0]["ms_per_chunk"]) > 0
        and "What a student keeps" in (tmp_path / "comparison/table.html").read_text()
    )
    assert first.judge.calls == 4  # two variants, two clips
    again = compared(tmp_path)
    compare_all([CAUSAL, STUDENT], again)
    assert again.judge.calls == 0
    found = json.loads((tmp_path / "comparison" / "comparison.json").read_text())["variants"]
    assert found["causal"]["lip_sync"] == pytest.approx(float(rows[0]["lip_sync"]))
    save(tmp_path, STUDENT)  # other weights in the same place
    compare_all([CAUSAL, STUDENT], again)
    assert again.judge.calls == 2


def test_a_run_that_is_not_what_the_rung_says_is_an_error_row(tmp_path: Path):
    save(tmp_path, MISSING)  # it has two steps and a clean context
    compare_all([MISSING], compared(tmp_path))
    error = json.loads((tmp_path / "comparison" / "comparison.json").read_text())["variants"]["dmd1"]["error"]
    assert error.startswith("run=dmd1 has sigmas, context ((1.0, 0.6), 'clean'), must have ((1.0,), 'noisy')")


def test_many_steps_replace_the_models_own(tmp_path: Path):
    save(tmp_path, CAUSAL)
    artifact = CAUSAL.load(tmp_path, tiny_vae())
    # u = 1, 2/3, 1/3 shifted by 5: 5 u / (1 + 4 u)
    assert artifact.contract.sigmas == pytest.approx((1.0, 10 / 11, 5 / 7))
    assert artifact.contract.solver == contract().solver


@pytest.mark.parametrize("wrong", [{}, {"sigmas": [1.0], "many_steps": 2}])
def test_a_rung_has_its_own_steps_or_many(wrong: dict[str, Any]):
    with pytest.raises(ValueError, match="either sigmas="):
        Variant(stage="dmd", run="dmd", **wrong)


def test_what_a_student_keeps_is_a_share_of_the_causal_models():
    found = [
        {"lip_sync": 0.8, "motion": 1.0, "ms_per_chunk": 400.0},
        {"lip_sync": 0.78, "motion": 0.6, "ms_per_chunk": 20.0},
        {},
    ]
    (row,) = shares([CAUSAL, STUDENT, MISSING], found)
    assert row[0] == "dmd"
    assert row[1::2] == [pytest.approx(0.975), pytest.approx(0.6), pytest.approx(0.05)]
    assert row[2::2] == [True, False, True]
    assert shares([STUDENT], found[1:2]) == []  # without a causal model there is nothing to keep


def test_a_rung_is_streamed_for_no_longer_than_it_says_and_the_table_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    """Many steps of a ten-minute stream would take most of an hour."""
    many = replace(CAUSAL, longest_s=60)
    for variant in (many, STUDENT):
        save(tmp_path, variant)
    asked: list[list[int]] = []

    def streamed(*_: Any, lengths_s: list[int], **__: Any) -> dict[str, dict[str, float]]:
        asked.append(lengths_s)
        return {str(length): {"motion": 1.0} for length in lengths_s}

    monkeypatch.setattr("evaluate.comparison.at_lengths", streamed)
    compare_all([many, STUDENT], compared(tmp_path, lengths_s=[10, 60, 600]))
    assert asked == [[10, 60], [10, 60, 600]]
    page = (tmp_path / "comparison" / "table.html").read_text()
    assert "causal is not streamed for 600 s: its 3 steps are streamed for at most 60 s." in page
    assert "dmd is not streamed" not in page
    assert replace(many, longest_s=5).streamed([10, 60]) == []  # then no stream at all


def numbered(monkeypatch: pytest.MonkeyPatch, size: int) -> SimpleNamespace:
    """An artifact whose stream shows the number of each frame."""

    def stream(*_: Any, **__: Any):
        for start in range(0, 10**6, size):
            yield (np.arange(start, start + size) % 251).astype(np.uint8)[:, None, None, None].repeat(3, axis=3)

    monkeypatch.setattr(lengths, "Stream", stream)
    return SimpleNamespace(contract=SimpleNamespace(chunk_pixel_frames=size))


@pytest.mark.parametrize("size", [4, 24])
def test_a_stream_is_looked_at_in_the_seconds_before_each_length(monkeypatch: pytest.MonkeyPatch, size: int):
    seen = list(looks(numbered(monkeypatch, size), [], seed=0, lengths_s=[10, 15]))
    assert [(length, start, len(frames)) for length, start, frames in seen] == [(10, 0, 240), (15, 120, 240)]
    for _, start, frames in seen:
        assert np.array_equal(frames[:, 0, 0, 0], np.arange(start, start + 240) % 251)


@pytest.mark.parametrize("wrong", [[5, 20], [20, 10], [10, 10]])
def test_lengths_must_rise_from_what_is_looked_at(monkeypatch: pytest.MonkeyPatch, wrong: list[int]):
    with pytest.raises(ValueError, match="lengths_s="):
        next(looks(numbered(monkeypatch, 4), [], seed=0, lengths_s=wrong))


def test_a_stream_hears_the_cases_one_after_the_other_again_and_again():
    first, second = case("a"), case("bb")
    both = [*range(FRAMES), *range(FRAMES)]
    assert meant_opening([first, second], FRAMES + 10, 4).tolist() == [10.0, 11.0, 0.0, 1.0] == [
        both[(FRAMES + 10 + k) % len(both)] for k in range(4)
    ]  # fmt: skip


def test_lip_sync_of_a_stream_is_against_the_voice_of_that_moment(monkeypatch: pytest.MonkeyPatch):
    """A mouth that opens as meant, seen through a stand-in for the face mesh, correlates to 1 at every length."""
    cases = [case("a"), case("bb")]
    artifact = numbered(monkeypatch, 4)
    starts = iter([0, 120])
    monkeypatch.setattr(lengths, "face_track", lambda *_: np.zeros((240, 468, 3), np.float32))
    monkeypatch.setattr(lengths, "lip_gap", lambda _: 0.1 * (np.arange(s := next(starts), s + 240) % FRAMES))
    found = lengths.at_lengths(artifact, cases, Judged(), seed=0, lengths_s=[10, 15])
    assert [found[name]["lip_sync"] for name in ("10", "15")] == [pytest.approx(1), pytest.approx(1)]
    assert set(found["10"]) == {"faces_found", "lip_sync", "motion", "saturation"}  # no identity without a network
    rows = lengths.length_rows({"dmd": found})
    assert [row[:2] for row in rows] == [["dmd", 10], ["dmd", 15]] and len(rows[0]) == len(lengths.LENGTH_COLUMNS)
    assert lengths.LENGTH_COLUMNS[0] == "variant"
