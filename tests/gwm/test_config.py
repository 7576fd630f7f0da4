import json

import pytest

from gwm.autoencoders.haar import HaarConfig
from gwm.chunks import ChunkPattern
from gwm.config import AudioConfig, DiTConfig
from gwm.files.json_text import JsonConfig
from tests.tiny import AUDIO, DIT, VAE_SHAPE

CONFIGS = [AUDIO, DIT, VAE_SHAPE, ChunkPattern(chunk_frames=3)]


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
    ],
)
def test_impossible_shape_is_an_error(kind: type[JsonConfig], values: dict[str, object], message: str):
    with pytest.raises(ValueError, match=message):
        kind(**values)


def test_window_features_count_left_own_and_lookahead_frames():
    config = AudioConfig(num_mels=5, hops_per_frame=2, left_frames=3, lookahead_frames=1)
    assert config.window_features(4) == (3 + 4 + 1) * 2 * 5
