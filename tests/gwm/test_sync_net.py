"""The lip-sync network: its arithmetic with known embeddings, and the shipped weights on a clip it never saw."""

from pathlib import Path

import numpy as np
import pytest
import torch

from data.characters.renderer import Renderer, identity
from data.performance import perform
from gwm.config import AudioConfig
from gwm.metrics import sync_net
from gwm.metrics.face_track import face_track, mouth_crops
from gwm.metrics.sync_net import CROP_PX, SyncNet, load_sync_net, sync_score
from gwm.optional import MissingPackageError
from tests.gwm.test_metrics import blurred

SHIPPED = Path(__file__).parents[2] / "weights" / "sync"


@pytest.mark.parametrize("late", [-7, 0, 4])
def test_lag_and_confidence_of_known_embeddings(monkeypatch, late):
    """Mouths that say what the voice said `late` frames before: distance 0 there and about sqrt(2) elsewhere."""
    heard = torch.nn.functional.normalize(torch.randn(60, 64), dim=1)
    monkeypatch.setattr(sync_net, "embeddings", lambda *_: (heard.roll(late, dims=0)[10:50], heard[10:50]))
    score = sync_score(SyncNet(AudioConfig()), np.zeros((44, 32, 32, 3), np.uint8), np.zeros(44_000, np.float32))
    assert score.lag_frames == late
    assert score.distance == pytest.approx(0, abs=1e-3)
    assert score.confidence == pytest.approx(2**0.5, abs=0.05)


def test_light_and_contrast_do_not_matter():
    net = SyncNet(AudioConfig()).eval()
    mouths = torch.rand(2, 5, 3, 32, 32) - 0.5
    torch.testing.assert_close(net.embed_mouths(mouths), net.embed_mouths(0.8 * mouths + 0.1), rtol=0, atol=0.05)


def test_windows_are_neighbours():
    frames = torch.arange(7.0)[:, None].expand(7, 2)
    assert sync_net.windows(frames)[:, :, 0].tolist() == [[0, 1, 2, 3, 4], [1, 2, 3, 4, 5], [2, 3, 4, 5, 6]]


def test_short_clip_is_refused():
    with pytest.raises(ValueError, match="20 frames must be at least 22"):
        sync_score(SyncNet(AudioConfig()), np.zeros((20, 32, 32, 3), np.uint8), np.zeros(20_000, np.float32))


def test_missing_weights_name_the_command(tmp_path):
    with pytest.raises(MissingPackageError, match=r"train\.py stage=sync"):
        load_sync_net(tmp_path / "none")


@pytest.fixture(scope="module")
def spoken(mesh) -> tuple[np.ndarray, np.ndarray]:
    """Mouth crops and voice of a person and a sentence that no training saw."""
    act = next(act for seed in range(50) if (act := perform(seed, 60, "test")).agent_speaking.all())
    frames = Renderer(128).render(identity(987_654_321, "anny"), act.actions, act.pose, act.gaze)
    return mouth_crops(frames, face_track(frames, mesh), CROP_PX), act.agent


def test_shipped_network_ranks_real_blurred_shifted_frozen_and_noise(spoken):
    mouths, voice = spoken
    net = load_sync_net(SHIPPED)
    real = sync_score(net, mouths, voice)
    late = sync_score(net, mouths[:-6], voice[6_000:])  # the voice is six frames early, so the mouth late
    soft = sync_score(net, blurred(mouths, 1.5), voice)
    frozen = sync_score(net, np.repeat(mouths[:1], len(mouths), axis=0), voice)
    noise = sync_score(net, np.random.default_rng(0).integers(0, 256, mouths.shape, dtype=np.uint8), voice)
    assert abs(real.lag_frames) <= 1
    assert abs(late.lag_frames - 6) <= 1
    assert real.confidence > soft.confidence > 1.5 * max(frozen.confidence, noise.confidence)
    assert real.distance < soft.distance < min(frozen.distance, noise.distance)
