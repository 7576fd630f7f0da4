"""docs/capacity.md shows what its command computes from committed measurements."""

import csv
import json
from pathlib import Path

from serve.bench.capacity import curve_rows, plan_rows, planned
from serve.bench.capacity_plan import SIGN_OF_LIFE_WRITES, SOON_S
from serve.live.http.tracks import BITS
from serve.runway_api.session_queue import MAX_WAITING
from tests.test_configs import composed

DOCS = Path(__file__).parents[2] / "docs"
FOLDER, PAGE = DOCS / "experiments", (DOCS / "capacity.md").read_text()
FOUND = json.loads((FOLDER / "capacity.json").read_text())


def rows_of(name: str) -> list[tuple[str, ...]]:
    with (FOLDER / name).open(newline="") as stream:
        return [tuple(row) for row in csv.reader(stream)]


def test_the_curves_are_those_that_were_simulated():
    assert rows_of("capacity_curves.csv") == curve_rows(FOUND["curves"])


def test_the_plan_follows_from_the_curves_and_the_committed_benchmarks():
    assert rows_of("capacity_plan.csv") == plan_rows(planned(dict(composed("bench_capacity", [])), FOUND))


def test_what_the_page_says_of_the_simulation_is_what_was_simulated():
    told, cfg = FOUND["settings"], composed("bench_capacity", [])
    kept = ("devices", "machines", "mean_s", "longest_s", "failure_h", "incident", "max_load", "loads")
    assert {name: told[name] for name in kept} == {name: cfg[name] for name in kept}
    assert (told["mean_s"], told["longest_s"], told["failure_h"], told["devices"]) == (300, 1800, 168, 4)
    assert SOON_S == 10 and f"`{BITS}` bits" in PAGE and SIGN_OF_LIFE_WRITES == 2
    assert f"and {MAX_WAITING} at a small server" in PAGE
