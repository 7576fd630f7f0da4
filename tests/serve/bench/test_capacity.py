"""The plan against arithmetic by hand, and the command on a small fleet."""

import json
import math
from pathlib import Path

import pytest

from gwm.resolution import Resolution
from serve.bench.capacity import measured, planned, store_writes_per_s
from serve.bench.capacity_plan import Device, Point, Use, egress_bits_per_s, highest_load, plan
from tests.test_configs import composed

POINTS = [Point(8, 0.5, 2.0, 0.0), Point(8, 0.7, 40.0, 0.0), Point(100, 0.5, 0.0, 0.0), Point(100, 0.9, 9.0, 0.0)]
DEVICE = Device(cores=2, period_s=1 / 6, chunk_s=0.05, max_load=0.6)
USE = Use(mean_s=300.0, captions_per_s=0.2, turn_share=0.1)


def test_a_plan_is_what_can_be_reckoned_by_hand():
    found = plan(90, POINTS, device=DEVICE, frame=Resolution(512, 512), use=USE, store_writes_per_s=100.0)
    assert (found.load, found.places, found.devices, found.cores) == (0.9, 100, 50, 100)
    assert found.starts_per_s == 0.3
    assert found.writes_per_s == pytest.approx(0.3 * 5 + 90 * 0.2 + 50 * 2 / 5)
    assert found.stores == math.ceil(39.5 / 50)
    assert found.turn_mbit_s == pytest.approx(0.1 * found.egress_mbit_s)
    assert found.egress_mbit_s == pytest.approx(90 * egress_bits_per_s(Resolution(512, 512)) / 1e6)


def test_a_session_sends_its_picture_its_sound_and_headers():
    bits = egress_bits_per_s(Resolution(512, 512))
    video = 0.24 * 512 * 512 * 24
    assert video + 96_000 < bits < 1.1 * (video + 96_000)


def test_the_load_is_the_highest_at_which_people_are_let_in_soon():
    assert (highest_load(POINTS, 1), highest_load(POINTS, 50), highest_load(POINTS, 5_000)) == (0.5, 0.9, 0.9)
    with pytest.raises(ValueError, match="loads must begin lower"):
        highest_load([Point(8, 0.7, 40.0, 0.0)], 1)


def test_a_size_that_was_not_measured_is_refused_with_those_that_were():
    with pytest.raises(ValueError, match=r"size=300 must be one .* 512"):
        measured(dict(composed("bench_capacity", ["size=300"])))


def test_a_faster_device_needs_fewer_of_it():
    values = {"store_writes_per_s": 1_000.0, "curves": [_row(point) for point in POINTS]}
    slow, fast = (
        planned(dict(composed("bench_capacity", ["planned=[100]", f"chunk_ms={ms}"])), values)[0] for ms in (48, 12)
    )
    assert slow.devices == 4 * fast.devices


def test_a_store_is_measured_by_its_own_transactions():
    assert store_writes_per_s(0.2) > 10


def _row(point: Point) -> dict[str, float]:
    wait = {"wait_s_p95": point.wait_s_p95, "refused_share": 0.0, "gave_up_share": 0.0}
    return {"places": point.places, "load": point.load, **wait}


def test_the_command_writes_curves_picture_and_plan(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    from serve.bench.capacity import main

    out = tmp_path / "small"
    words = [f"out={out}", "machines=[1]", "loads=[0.3,1.2]", "sessions=50", "planned=[1]", "incident.seconds=60.0"]
    monkeypatch.setattr("sys.argv", ["capacity", *words, "failure_h=1000.0"])
    main()
    found = json.loads(out.with_suffix(".json").read_text())
    assert [row["load"] for row in found["curves"]] == [0.3, 1.2] and found["plans"][0]["sessions"] == 1
    assert out.with_suffix(".svg").read_text().count("<svg") == 1
    assert (tmp_path / "small_plan.csv").read_text().startswith("sessions at a time,")
