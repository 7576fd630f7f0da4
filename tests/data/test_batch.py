"""Batches depend on (seed, step) alone, and latents keep company with the right audio."""

import itertools

import numpy as np
import pytest
import torch

from data.batch import LatentClips, PixelBatch, latent_batch
from data.latents import with_windows
from data.steps import StepData, StepSampler, split_batch
from gwm.condition.audio import frame_features
from gwm.config import AudioConfig


def test_the_kth_batch_is_the_same_from_the_start_and_after_a_resume():
    fresh = itertools.islice(StepSampler(10, batch_size=3, seed=1, first_step=0), 5, 8)
    resumed = itertools.islice(StepSampler(10, batch_size=3, seed=1, first_step=5), 3)
    assert list(fresh) == list(resumed)


def test_another_seed_gives_other_batches():
    first, other = (next(iter(StepSampler(1000, batch_size=8, seed=seed, first_step=0))) for seed in (1, 2))
    assert first != other


@pytest.mark.parametrize(("device_batch", "num_devices"), [(None, 1), (2, 1), (None, 2), (1, 3), (2, 3)])
def test_a_batch_is_the_same_however_it_is_divided(device_batch: int | None, num_devices: int):
    part, passes = split_batch(12, device_batch, num_devices)
    assert part * passes * num_devices == 12
    samplers = [
        StepSampler(
            100, batch_size=12, seed=1, first_step=4, device_batch=device_batch, num_devices=num_devices, device=device
        )
        for device in range(num_devices)
    ]
    parts = [item for sampler in samplers for batch in itertools.islice(sampler, passes) for item in batch]
    assert sorted(parts) == next(iter(StepSampler(100, batch_size=12, seed=1, first_step=4)))


@pytest.mark.parametrize(("device_batch", "num_devices"), [(5, 1), (None, 5), (8, 2), (0, 1)])
def test_a_batch_that_cannot_be_divided_is_refused(device_batch: int | None, num_devices: int):
    with pytest.raises(ValueError, match="batch_size=12 must be a multiple of"):
        split_batch(12, device_batch, num_devices)


def test_a_checkpoint_between_two_passes_starts_the_batch_anew():
    data = StepData(shards=".", batch_size=4, num_workers=0, seed=0, device_batch=2)
    for expected, batch in [(7, PixelBatch(torch.zeros(2, 4, 3, 8, 8), step=7)), (8, PixelBatch(
        torch.zeros(2, 4, 3, 8, 8), step=7, first_slot=2))]:  # fmt: skip
        data.on_after_batch_transfer(batch, 0)
        assert data.state_dict() == {"next_step": expected}


def test_windows_sit_on_their_latent_frames():
    """A click in pixel frame 17 is heard by the latent frames whose windows of 4 + 4 + 4 frames hold frame 17."""
    audio = AudioConfig(left_frames=4, lookahead_frames=4)
    samples = torch.zeros(1, 48 * 1000)
    samples[0, 17 * 1000 + 900] = 1.0
    features = frame_features(samples, audio)[0]
    latents = torch.arange(12.0)[:, None, None, None].expand(12, 1, 1, 1)
    clip = with_windows(
        {"latents": latents, "reference": latents[:1], "speech.agent": features, "speech.user": features}, audio
    )
    loud = (clip["frame.agent"] > -0.999).any(dim=1)
    assert clip["x0"].flatten().tolist() == list(range(1, 11))
    # Latent frame i is pixel frames 4i..4i+3 and sees 4i-4..4i+7; the click rings on in frame 18 through the window.
    expected = [any(4 * i - 4 <= frame <= 4 * i + 7 for frame in (17, 18)) for i in range(1, 11)]
    assert loud.tolist() == expected


def test_a_crop_keeps_latents_and_windows_together():
    length = 10
    count = torch.arange(float(length))
    clip = {
        "x0": count[:, None, None, None],
        "reference": torch.zeros(1, 1, 1, 1),
        "frame.agent": count[:, None],
        "frame.user": -count[:, None],
    }
    items = [LatentClips([clip], num_frames=4, seed=0)[step, 0, 0] for step in range(20)]
    starts = set()
    for item in items:
        assert torch.equal(item["x0"].flatten(), item["frame.agent"].flatten())
        assert torch.equal(item["frame.agent"], -item["frame.user"])
        starts.add(float(item["frame.agent"][0]))
    assert len(starts) > 3
    assert latent_batch(items[:3]).x0.shape == (3, 4, 1, 1, 1)
    assert np.isfinite(latent_batch(items[:3]).step)
