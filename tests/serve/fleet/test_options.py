import dataclasses
from pathlib import Path

import pytest
import yaml

from serve.fleet.options import FleetOptions

SHIPPED = yaml.safe_load((Path(__file__).parents[3] / "configs" / "fleet.yaml").read_text())["fleet"]
OPTIONS = FleetOptions(**SHIPPED)


@pytest.mark.parametrize(
    ("change", "rule"),
    [
        ({"workers": 0}, "fleet.workers=0 must be at least 1"),
        ({"gateways": 0}, "fleet.gateways=0 must be at least 1"),
        ({"down_s": -1}, "fleet.down_s=-1 must be at least 0"),
        ({"max_workers": 1}, "fleet.max_workers=1 must be at least 2"),
        ({"target": 3.0}, "fleet.target=3.0 must be above 0 and at most fleet.places=2"),
        ({"worker_url": "example.org"}, "must be such as https://"),
    ],
)
def test_what_cannot_be_is_refused(change: dict[str, object], rule: str):
    with pytest.raises(ValueError, match=rule):
        dataclasses.replace(OPTIONS, **change)


def test_a_worker_is_reached_at_its_own_address_or_by_the_name_that_is_given():
    named = dataclasses.replace(OPTIONS, worker_url="https://{ip}.example.org:{port}")
    assert OPTIONS.url_of("http", "10.0.0.7", 81) == "http://10.0.0.7:81"
    assert named.url_of("http", "10.0.0.7", 81) == "https://10.0.0.7.example.org:81"


def test_a_worker_lasts_as_long_as_the_longest_session():
    assert OPTIONS.drain_s > 1800
