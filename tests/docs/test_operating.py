"""docs/operating.md names what /metrics has, and its dashboard asks for nothing else."""

import json
import re
from pathlib import Path

from prometheus_client import generate_latest
from prometheus_client.parser import text_string_to_metric_families

from serve.fleet.gateway import GONE_MS
from serve.live.avatar import call_queue, engine_process
from serve.live.gauges import EngineNumbers, Gauges
from serve.runway_api.session_queue import MAX_WAITING, QUEUE_S
from serve.scheduler import POLICIES

DOCS = Path(__file__).parents[2] / "docs"
PAGE = (DOCS / "operating.md").read_text()
DASHBOARD = json.loads((DOCS / "grafana.json").read_text())


def exported() -> dict[str, str]:
    """Kind of each metric of a server, by its name in a query; of histograms by the name of its buckets."""
    gauges = Gauges()
    gauges.refused.labels("full").inc()
    gauges.count_turn({"type": "latency", "total_ms": 900, "stt_ms": 300})
    numbers = EngineNumbers(device="cpu", alive=True, restarts=1, sessions=2, slots=3, load=0.5, chunk_ms=40.0)
    gauges.watch(lambda: [numbers])
    found = {}
    for family in text_string_to_metric_families(generate_latest(gauges.registry).decode()):
        if family.name.endswith("_created"):  # when a counter began
            continue
        suffix = {"counter": "_total", "histogram": "_bucket"}.get(family.type, "")
        assert any(sample.name == family.name + suffix for sample in family.samples), family.name
        found[family.name + suffix] = family.type
    return found


def test_the_dashboard_asks_for_metrics_that_exist_and_for_all_of_them():
    asked = {
        name
        for panel in DASHBOARD["panels"]
        for target in panel["targets"]
        for name in re.findall(r"gwm_\w+", target["expr"])
    }
    assert asked == set(exported())


def test_panels_do_not_overlap_and_have_a_source():
    places = [(panel["gridPos"]["x"], panel["gridPos"]["y"]) for panel in DASHBOARD["panels"]]
    assert len(set(places)) == len(places) > 9
    assert all(panel["datasource"]["uid"] == "${source}" for panel in DASHBOARD["panels"])


def test_every_metric_is_on_the_page_with_its_kind():
    rows = dict(re.findall(r"^\| `(gwm_\w+)` \| (\w+) \|", PAGE, flags=re.MULTILINE))
    assert rows == {name.removesuffix("_bucket"): kind for name, kind in exported().items()}


def test_numbers_on_the_page_are_those_of_the_code():
    assert f"may take {100 * call_queue.CHANGE_SHARE:.0f} % of" in PAGE
    assert f"more than {call_queue.SLOW} times the average" in PAGE
    assert f"queued for {QUEUE_S:.0f} s" in PAGE and f"and {MAX_WAITING} at a small server" in PAGE
    assert f"(`fleet.gateways`) after {GONE_MS / 1000:.0f} s" in PAGE
    assert f"nothing for {engine_process.STEP_TIMEOUT_S:.0f} s counts as dead" in PAGE
    assert set(re.findall(r"^\| `(\w+_\w+)` \| the session", PAGE, flags=re.MULTILINE)) == set(POLICIES)


def test_a_turn_and_its_parts_and_what_became_of_chunks_are_counted():
    gauges = Gauges()
    gauges.count_turn({"type": "latency", "total_ms": 900, "stt_ms": 300})
    gauges.count_chunk("late")
    text = generate_latest(gauges.registry).decode()
    assert 'gwm_turn_part_ms_sum{part="stt"} 300.0' in text and "gwm_turn_ms_sum 900.0" in text
    assert 'gwm_chunks_total{outcome="late"} 1.0' in text and 'gwm_chunks_total{outcome="in_time"} 0.0' in text
