import math

import numpy as np
import pytest
import torch

from gwm.condition.audio import (
    WINDOW_SAMPLES,
    chunk_windows,
    continued_features,
    frame_features,
    history_samples,
    mel_filters,
)
from gwm.config import AudioConfig

AUDIO = AudioConfig(num_mels=12)
STRIDE = 4  # pixel frames per latent frame
FP32 = 1e-5


def sound(num_frames: int) -> torch.Tensor:
    return 0.1 * torch.randn(2, num_frames * AUDIO.frame_samples)


def test_mel_filters_are_triangles_on_the_mel_scale():
    def mel(hz: float) -> float:
        return 2595 * math.log10(1 + hz / 700)

    low, high = mel(60.0), mel(8000.0)
    edges = [700 * (10 ** ((low + i * (high - low) / 13) / 2595) - 1) for i in range(14)]
    filters = mel_filters(AUDIO)
    for k in range(WINDOW_SAMPLES // 2 + 1):
        hz = k * 24_000 / WINDOW_SAMPLES
        for m, (left, peak, right) in enumerate(zip(edges, edges[1:], edges[2:], strict=False)):
            expected = np.interp(hz, (left, peak, right), (0.0, 1.0, 0.0))
            assert filters[k, m] == pytest.approx(expected, abs=1e-6)


def test_features_are_the_log_energies_of_windows_that_end_with_their_hop():
    """A direct transform of the window's samples, without framing or FFT."""
    samples, frame = sound(3), 2
    features = frame_features(samples, AUDIO).unflatten(2, (AUDIO.hops_per_frame, AUDIO.num_mels))
    n, k = np.arange(WINDOW_SAMPLES), np.arange(WINDOW_SAMPLES // 2 + 1)
    hann = 0.5 - 0.5 * np.cos(2 * np.pi * n / WINDOW_SAMPLES)
    transform = np.exp(-2j * np.pi * np.outer(n, k) / WINDOW_SAMPLES)
    for hop in range(AUDIO.hops_per_frame):
        end = frame * 1000 + (hop + 1) * 250
        window = samples[0, end - WINDOW_SAMPLES : end].double().numpy() * hann
        energy = np.abs(window @ transform) ** 2 / WINDOW_SAMPLES @ mel_filters(AUDIO).double().numpy()
        expected = torch.from_numpy((np.log10(np.maximum(energy, 1e-6)) + 3) / 3).float()
        torch.testing.assert_close(features[0, frame, hop], expected, rtol=1e-4, atol=1e-4)  # fp32 FFT, logarithm


@pytest.mark.parametrize("chunk_frames", [1, 4, 12])
def test_features_chunk_by_chunk_equal_those_of_the_whole_file(chunk_frames: int):
    samples = sound(24)
    stream = torch.nn.functional.pad(samples, (history_samples(AUDIO), 0))  # a stream starts in silence
    size, made = chunk_frames * AUDIO.frame_samples, []
    for start in range(0, samples.shape[1], size):
        made.append(continued_features(stream[:, start : start + history_samples(AUDIO) + size], AUDIO))
    torch.testing.assert_close(torch.cat(made, 1), frame_features(samples, AUDIO), rtol=FP32, atol=FP32)


def test_a_window_hears_its_lookahead_and_no_sample_more():
    samples, latent_frame = sound(32), 2
    end = (AUDIO.left_frames + (latent_frame + 1) * STRIDE + AUDIO.lookahead_frames) * AUDIO.frame_samples

    def window(changed_from: int) -> torch.Tensor:
        changed = samples.clone()
        changed[:, changed_from:] += 0.1
        return chunk_windows(frame_features(changed, AUDIO), AUDIO, temporal_stride=STRIDE)[:, latent_frame]

    before = window(samples.shape[1])
    assert torch.equal(window(end), before)
    assert not torch.equal(window(end - 50), before)  # a Hann window hears nothing of its very last sample


def test_windows_are_aligned_with_their_latent_frames():
    """Window i: left_frames before pixel frame left_frames + 4 i, four own, lookahead_frames after."""
    config = AudioConfig(num_mels=2, hops_per_frame=1, left_frames=3, lookahead_frames=2)
    features = torch.stack([torch.arange(20.0), -torch.arange(20.0)], dim=1)[None]
    windows = chunk_windows(features, config, temporal_stride=STRIDE)
    expected = [[sign * (first - 3 + j) for j in range(3 + 4 + 2) for sign in (1, -1)] for first in (3, 7, 11)]
    assert windows[0].tolist() == expected
    assert windows.shape[2] == config.window_features(STRIDE)


def test_silence_is_minus_one():
    silence = frame_features(torch.zeros(1, 5 * AUDIO.frame_samples), AUDIO)
    assert torch.equal(silence, torch.full((1, 5, AUDIO.frame_features), -1.0))


def test_part_of_a_frame_is_an_error():
    with pytest.raises(ValueError, match=r"1500 samples, must be a multiple of frame_samples=1000"):
        frame_features(torch.zeros(1, 1500), AUDIO)
