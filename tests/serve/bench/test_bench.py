import json
import mmap
from pathlib import Path
from typing import Any

import pytest
import torch
from hydra import compose, initialize_config_dir
from omegaconf import OmegaConf

from gwm.config import DiTConfig
from gwm.dit import DiT
from serve.bench import __main__ as entry
from serve.bench.__main__ import bench
from serve.bench.case import SHAPES, Case
from serve.bench.live_path import LiveCase
from serve.bench.report import case_table, count_table, policy_table
from serve.bench.soak import Soak
from serve.bench.speed import live
from serve.bench.timing import Stopwatch, allocated, growth, peak, reset_peak
from serve.bench.workload import make

TINY = Case(shape="nano", height=32, width=32, window_frames=4)
CPU = torch.device("cpu")
PAGES_BYTES = 2**27
CONFIGS = Path(__file__).parents[3] / "configs"


def run(out: Path, **changes: object) -> dict:
    settings = {
        "name": "bench",
        "cases": [TINY],
        "variants": [TINY],
        "soaks": [],
        "live": [],
        "artifact": None,
        "sizes": [None],
        "stopwatch": Stopwatch(CPU),
        "chunks": 4,
        "rounds": 2,
    }
    path = bench(**(settings | {"compile": False, "streams": [1, 3], "out": out} | changes))
    return json.loads(path.read_text())


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> dict:
    """Of one whole run."""
    return run(tmp_path_factory.mktemp("results"))


def test_a_run_leaves_every_number_that_was_promised(results: dict):
    row = results["cases"][0]
    assert row["host_reads_per_chunk"] == 0
    assert row["kernel_calls_per_pass"] > 14 * 4
    assert 0 < row["denoise_ms"]["p50"] <= row["denoise_ms"]["max"] and 0 < row["chunk_ms"]["p50"]
    assert row["roofline_fraction"] == pytest.approx(row["floor_ms_per_pass"] / row["pass_ms"]["p50"])
    chunk_floor_ms = 3 * row["floor_ms_per_pass"]  # two steps and the commit
    assert row["chunk_roofline_fraction"] == pytest.approx(chunk_floor_ms / row["denoise_ms"]["p50"])
    assert row["first_frame_ms"]["cold"] > 0 and row["first_frame_ms"]["warm"] > 0
    compared, caches = results["variants"][0], results["caches"][0]
    assert list(results["batches"][0]["chunk_ms"]) == ["batch of 1", "batch of 2", "batch of 4"]
    lower = ["ring + oneDNN", "ring + bfloat16", "ring + bfloat16 + oneDNN"]
    assert list(compared["chunk_ms"]) == ["concatenate cache", "roll cache", "ring", *lower]
    moved = caches["cache_bytes_per_chunk"]
    assert moved["ring"] < moved["roll"] < moved["concatenate"] and moved["ring"] < moved["rotate_all"]
    assert {row["streams"] for row in results["sessions"][0]["policies"]} == {1, 3}
    assert results["machine"]["torch"] == torch.__version__
    assert set(compared["not compared"]) >= {"diffusers"}  # a reason is kept where a number is not
    assert row["late"]["median"] > 0


def test_tables_show_what_the_file_holds(results: dict):
    row = results["cases"][0]
    times, counts = (table([row]).splitlines()[1] for table in (case_table, count_table))
    for number in (row["pass_ms"]["p50"], row["floor_ms_per_pass"], row["chunk_ms"]["p95"], row["chunk_ms"]["max"]):
        assert f"{number:.1f}" in times.split()
    assert f"{row['chunk_roofline_fraction']:.0%}" in times.split()
    assert f"{row['late']['median']:.3f}" in times.split() and f"{row['overlap']['efficiency']:.2f}" in times.split()
    assert str(row["kernel_calls_per_chunk"]) in counts.split()
    assert f"{row['cache_bytes_per_chunk'] / 1e6:.2f}" in counts.split()
    lines = policy_table(results["sessions"][0]).splitlines()
    assert [line.split()[0] for line in lines[1:]] == ["1", "3"]
    assert [heading in lines[0] for heading in ("least_slack", "first_come", "round_robin")] == [True] * 3


def test_a_part_that_fails_says_why_and_the_others_go_on(
    results: dict, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    """An hour of a rented card is not lost to one case that does not fit."""

    def no_memory(*_: object, **__: object) -> dict:
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 80 GiB")

    for name in ("measure", "compare_caches"):
        monkeypatch.setattr(entry, name, no_memory)
    monkeypatch.setattr(entry, "compare_variants", lambda *_, **__: results["variants"][0])
    failed = {"case": TINY.name, "failed": "CUDA out of memory. Tried to allocate 80 GiB"}
    made = run(tmp_path)
    assert (made["cases"], made["variants"], made["caches"]) == ([failed], results["variants"], [failed])


def test_soaks_have_a_file_of_their_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """The table of a day is not overwritten by hours of video."""
    monkeypatch.setattr(entry, "soak", lambda plan, stopwatch: {"chunks": plan.chunks})
    for name in ("bench", "soak"):
        plan = Soak(case=TINY, chunks=7)
        assert run(tmp_path, name=name, cases=[], variants=[], soaks=[plan])["soaks"] == [{"chunks": 7}]
    assert len(list(tmp_path.glob("*.json"))) == 2


@torch.no_grad()
def test_a_stream_that_jumped_makes_the_chunk_of_that_place():
    """Its time there can be told without the 40 minutes before: position, noise and slots are those of the chunk."""
    jumped, walked = (make(TINY, CPU) for _ in range(2))
    for workload in (jumped, walked):
        workload.fill()
    for _ in range(5):
        walked.denoise()
    jumped.jump(int(walked.rollout.frame))
    for mine, other in zip(jumped.rollout.noises(), walked.rollout.noises(), strict=True):
        assert torch.equal(mine, other)
    assert torch.equal(jumped.rollout.cache.slots(1), walked.rollout.cache.slots(1))
    assert torch.equal(jumped.rollout.cache.positions(1), walked.rollout.cache.positions(1))


def test_each_case_has_a_peak_of_its_own():
    with mmap.mmap(-1, PAGES_BYTES) as pages:
        pages.write(bytes(PAGES_BYTES))
    assert peak(CPU) > allocated(CPU) + PAGES_BYTES / 2
    reset_peak(CPU)
    assert peak(CPU) < allocated(CPU) + PAGES_BYTES / 2


def test_growth_is_what_is_not_given_back():
    taken = [0, 12, 5, 9, 3] * 8
    assert growth(taken) == 0
    assert growth([3 * k + size for k, size in enumerate(taken)], every=10) == 300
    with pytest.raises(ValueError, match="1 sizes, must be at least 2"):
        growth([7])


def test_a_run_that_is_cut_off_leaves_what_it_had_measured(
    results: dict, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    def cut_off(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(entry, "measure", lambda *_, **__: results["cases"][0])
    monkeypatch.setattr(entry, "compare_variants", cut_off)
    with pytest.raises(KeyboardInterrupt):
        run(tmp_path)
    left = json.loads(next(tmp_path.glob("*.json")).read_text())
    assert left["cases"] == results["cases"] and "variants" not in left


def test_chunks_slower_than_their_playing_time_stall_a_viewer():
    slow, quick = live([200.0] * 6, period_ms=100.0), live([50.0] * 6, period_ms=100.0)
    assert (slow["viewer"]["stalls"], slow["deadline_attainment"], slow["fps"]) == (5, 0.0, 12.0)
    assert (quick["viewer"]["stalls"], quick["deadline_attainment"], quick["fps"]) == (0, 1.0, 48.0)


@pytest.mark.slow
def test_the_live_path_on_one_and_on_two_devices(tmp_path: Path):
    """As `make bench-gpu` does it; a card that is not there says so in its place, and the others go on."""
    lines = [["cpu"], [["cpu", "cpu"]], [{"denoise": ["cpu"], "decode": "cpu"}], ["cuda:7"]]
    live = [LiveCase(case=TINY, engines=engines, sessions=2, seconds=2) for engines in lines]
    *rows, missing = run(tmp_path, cases=[], variants=[], live=live)["live"]
    assert [row["engines"] for row in rows] == [["cpu"], ["cpu+cpu"], ["cpu>cpu"]]
    for row in rows:
        assert row["chunk_ms"]["p50"] > 0 and row["ready_s"] > 0 and 0 < row["in_time"] <= 1 and row["restarts"] == [0]
    assert "cuda:7 is not there" in missing["failed"]


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"engines": ["cpu"]}, "must have one of them"),
        ({"engines": [], "artifact": "a"}, "must have engines"),
    ],
)
def test_a_live_case_names_a_model_and_devices(values: dict, message: str):
    with pytest.raises(ValueError, match=message):
        LiveCase.of(values, dtype="float32")


def test_an_unknown_shape_is_an_error():
    with pytest.raises(ValueError, match="shape='wan9' must be one of"):
        Case(shape="wan9", height=64, width=64)


@pytest.mark.parametrize("name", ["bench", "bench_gpu", "bench_soak"])
def test_every_case_of_the_configs_can_be_made(name: str):
    """What is wrong in a line would else be found on a rented card."""
    with initialize_config_dir(str(CONFIGS), version_base="1.3"):
        values: Any = OmegaConf.to_container(compose(name))
    cases = [*values["cases"], *values["variants"], *(plan["case"] for plan in values["soaks"])]
    live = [LiveCase.of(line, dtype="bfloat16") for line in values["live"]]
    cases += [line["case"] for line in values["live"] if "case" in line]
    assert all(one.devices for one in live) and bool(live) == (name == "bench_gpu")
    assert cases and all(Case(**case).contract().pattern.ring_frames > 0 for case in cases)


def test_the_shapes_are_the_sizes_they_are_named_after():
    with torch.device("meta"):
        sizes = {name: sum(p.numel() for p in DiT(DiTConfig(**shape)).parameters()) for name, shape in SHAPES.items()}
    assert 14e6 < sizes["character"] < 25e6
    assert 1.3e9 < sizes["wan2_1_1_3b"] < 1.5e9 and 4.8e9 < sizes["wan2_2_5b"] < 5.2e9
