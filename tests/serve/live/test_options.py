"""A value of configs/serve.yaml that does not exist is refused before anything is loaded, with those that do."""

from dataclasses import fields
from pathlib import Path
from typing import Any

import pytest
import yaml

from serve.live.http.session import Timeouts
from serve.live.options import EngineDevices, ServerOptions, SessionOptions
from serve.live.speech.agent import TurnTaking
from serve.live.speech.endpoints import Endpoint

SHIPPED = yaml.safe_load((Path(__file__).parents[3] / "configs" / "serve.yaml").read_text())


def options(**changed: Any) -> ServerOptions:
    values = {field.name: SHIPPED[field.name] for field in fields(ServerOptions)}
    values["sessions"] = SessionOptions(**values["sessions"])
    return ServerOptions(**values | {name: float(values[name]) for name in ("lead_ms", "drain_s")} | changed)


def test_the_shipped_values_are_allowed():
    options(device="cuda:1", capacity=2, origins=["https://a.b"], trusted_proxies=["10.0.0.0/8", "::1"])
    TurnTaking(**SHIPPED["turn_taking"])
    Timeouts(**{name: float(value) for name, value in SHIPPED["timeouts"].items()})
    assert [Endpoint(**there).url for there in SHIPPED["endpoints"].values()] == [None] * 3


@pytest.mark.parametrize(
    ("name", "value", "rule"),
    [
        ("stt", "ears", "stt='ears' must be one of moonshine, whisper, openai"),
        ("llm", "gpt", "llm='gpt' must be one of rules, local, openai"),
        ("tts", "mouth", "tts='mouth' must be one of piper, kokoro, espeak, openai"),
        ("device", "gpu", "device='gpu' must be null, cpu, mps, cuda"),
        ("engines", [], r"engines=\[\] must be null, or devices such as cpu, cuda:0"),
        ("engines", ["cuda:0", "gpu"], "must be devices such as cpu, cuda:0"),
        ("engines", [["cuda:0", "gpu"]], "must be devices such as cpu, cuda:0"),
        ("engines", [[]], "engines has nothing, must be devices"),
        ("engines", [["cuda:0", "cuda:0"]], "for one stream, must be a card each"),
        ("engines", [{"denoise": ["cuda:0"], "decode": "gpu"}], "must be devices such as cpu, cuda:0"),
        ("engines", [{"denoise": ["cuda:0"], "decoder": "cuda:1"}], r"engines has \['decoder'\], must have denoise"),
        ("engines", [{"denoise": ["cpu", "cpu"], "parallel": "rows"}], "must be one of ulysses, tensor"),
        ("capacity", 0, "capacity=0 must be at least 1"),
        ("undo_chunks", -1, "undo_chunks=-1 must be at least 0"),
        ("decode_precision", "int8", "decode_precision='int8' must be one of auto, float32, bfloat16"),
        ("dtype", "float16", "dtype='float16' must be one of auto, float32, bfloat16"),
        ("num_threads", 0, "num_threads=0 must be at least 1"),
        ("requests_per_minute", 0, "requests_per_minute=0 must be at least 1"),
        ("drain_s", float("nan"), "drain_s=nan must be at least 0"),
        ("ice_servers", ["stun.example.org"], "must be such as stun:stun.example.org:3478"),
        ("trace", "localhost:4318", "trace='localhost:4318' must be null, or such as http://localhost:4318"),
        ("certificate", ["chain.pem"], "must be null, or two files: the chain, and its key"),
        ("origins", ["https://a.b/"], "must be such as https://example.org, without a path"),
        ("trusted_proxies", ["10.0.0.1/8"], "must be such as 10.0.0.1 or 10.0.0.0/8"),
    ],
)
def test_others_are_refused_with_those_that_are_allowed(name: str, value: Any, rule: str):
    with pytest.raises(ValueError, match=rule):
        options(**{name: value})


def test_engines_name_their_devices_alone_and_share_their_time_by_a_policy_that_exists():
    assert options(engines=["cuda:0", "cuda:1"]).engines == ["cuda:0", "cuda:1"]
    entries = ["cuda:0", ["cuda:1", "cuda:2"], {"denoise": ["cuda:3"], "decode": "cuda:4", "parallel": "tensor"}]
    placed = [EngineDevices.of(entry) for entry in options(engines=entries).engines or ()]
    assert [there.name for there in placed] == ["cuda:0", "cuda:1+cuda:2", "cuda:3>cuda:4"]
    assert [there.parallel for there in placed] == ["ulysses", "ulysses", "tensor"]
    assert EngineDevices.of({"denoise": "cuda:0", "decode": "cuda:1"}).name == "cuda:0>cuda:1"
    with pytest.raises(ValueError, match="device='cpu' must be null where engines="):
        options(engines=["cuda:0"], device="cpu")
    with pytest.raises(ValueError, match=r"sessions.policy='luck' must be one of least_slack, first_come, round_robin"):
        SessionOptions(policy="luck", max_load=0.6)
    with pytest.raises(ValueError, match=r"sessions.max_load=0.0 must be above 0 and at most 1"):
        SessionOptions(policy="least_slack", max_load=0.0)


def test_limits_of_time_and_addresses_are_looked_at_too():
    with pytest.raises(ValueError, match=r"timeouts.connect_s=0.0 must be at least"):
        Timeouts(connect_s=0.0, reconnect_s=1.0, session_s=1.0)
    with pytest.raises(ValueError, match=r"turn_taking.max_silence_s=-1.0 must be at least"):
        TurnTaking(max_silence_s=-1.0)
    with pytest.raises(ValueError, match="must begin with http:// or https://"):
        Endpoint(url="localhost:8000/v1", model="m", key_variable="")
