import json
import re
from dataclasses import replace
from typing import Any

import pytest

from gwm.autoencoders.haar import HaarConfig
from gwm.chunks import ChunkPattern
from gwm.condition.spec import ConditionSpec, Control
from gwm.config import AudioConfig, DiTConfig
from gwm.files.json_text import JsonConfig
from tests.tiny import AUDIO, DIT, VAE_SHAPE

CONFIGS = [AUDIO, DIT, VAE_SHAPE, ChunkPattern(chunk_frames=3)]

PAD: dict[str, Any] = {"name": "action", "rate": "frame", "width": 8, "names": ("x", "y")}
APART = ("pointer", "discrete", "pointer")
KINDS = ("pointer", "pointer", "discrete", "continuous")


@pytest.mark.parametrize("config", CONFIGS, ids=lambda c: type(c).__name__)
def test_json_round_trip(config: JsonConfig):
    assert type(config).from_json(json.loads(json.dumps(config.to_json()))) == config


@pytest.mark.parametrize("config", CONFIGS, ids=lambda c: type(c).__name__)
def test_unknown_key_is_an_error_that_names_it(config: JsonConfig):
    with pytest.raises(ValueError, match=r"unknown keys \['num_haeds'\], missing keys \[\]"):
        type(config).from_json(config.to_json() | {"num_haeds": 2})


@pytest.mark.parametrize(
    ("kind", "values", "message"),
    [
        (HaarConfig, {"channels": (8, 8)}, r"channels=\(8, 8\) must have 3 entries"),
        (HaarConfig, {"latents_mean": (0.0,) * 4}, "latents_mean has 4 entries, must have latent_channels=64"),
        (HaarConfig, {"latents_std": (1.0,) * 4}, "latents_std has 4 entries, must have latent_channels=64"),
        (AudioConfig, {"hops_per_frame": 3}, "frame_samples=1000 must be a multiple of hops_per_frame=3"),
        (AudioConfig, {"lookahead_frames": -1}, "lookahead_frames=-1 must be >= 0"),
        (DiTConfig, {"dim": 36, "num_heads": 12}, "dim=36 must be a multiple of 2 [*] num_heads=24"),
        (DiTConfig, {"dim": 48, "num_heads": 12}, "dim / num_heads = 4 must be >= 6"),
        (ConditionSpec, PAD | {"kinds": ("discrete",)}, r"kinds=\['discrete'\] must have 2 entries, one for each"),
        (ConditionSpec, PAD | {"kinds": ("discrete",) * 2, "minimum": (0.0, 0.0)}, "minimum and maximum must be left"),
        (ConditionSpec, PAD | {"kinds": ("pointer", "discrete")}, "must have pointer twice, one after"),
        (ConditionSpec, PAD | {"names": ("x", "y", "z"), "width": 12, "kinds": APART}, "must have pointer twice, one"),
    ],
)
def test_impossible_shape_is_an_error(kind: type[JsonConfig], values: dict[str, object], message: str):
    with pytest.raises(ValueError, match=message):
        kind(**values)


def test_window_features_count_left_own_and_lookahead_frames():
    config = AudioConfig(num_mels=5, hops_per_frame=2, left_frames=3, lookahead_frames=1)
    assert config.window_features(4) == (3 + 4 + 1) * 2 * 5


def test_limits_of_a_number_follow_its_kind():
    spec = ConditionSpec(**PAD | {"names": ("x", "y", "key", "speed"), "width": 16, "kinds": KINDS})
    assert spec.controls(4) == (
        Control("x", -1.0, 1.0, kind="pointer"), Control("y", -1.0, 1.0, kind="pointer"),
        Control("key", 0.0, 1.0, kind="discrete"), Control("speed", -10.0, 10.0),
    )  # fmt: skip


@pytest.mark.parametrize("other", [{"names": ["y", "x"]}, {"names": ["x"]}, {"kinds": ["discrete"] * 2}, {"kinds": []}])
def test_data_with_other_actions_are_refused(other: dict[str, list[str]]):
    """In another order, too: the numbers of one would be those of another."""
    model = replace(DIT, conditions=(ConditionSpec(**PAD, kinds=("pointer", "pointer")),))
    own = {"names": ["x", "y"], "kinds": ["pointer", "pointer"], "width": 8}
    model.check_declared({"action": own, "depth": {"names": ["metres"]}})  # what a model does not have, it leaves out
    ((field, theirs),) = other.items()
    with pytest.raises(ValueError, match=re.escape(f"{field}={own[field]} of the model must be {theirs}, as the data")):
        model.check_declared({"action": own | other})
