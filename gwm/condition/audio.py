"""Speech features, the same in training and in the server: log-mel energies of windows that end with their frame.

Features of pixel frame k use samples up to the end of frame k and no later one. All lookahead is therefore declared in
frames, by `AudioConfig.lookahead_frames`, and a stream computed chunk by chunk equals the whole file.
"""

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from gwm.config import AudioConfig

WINDOW_SAMPLES = 1_000  # 42 ms at 24 kHz
LOWEST_HZ, HIGHEST_HZ = 60.0, 8_000.0
SILENCE = 1e-6  # mel energy below which nothing is heard; it maps to -1


def mel_filters(config: AudioConfig) -> Float[Tensor, "bins mels"]:
    """Triangular filters, equally spaced on the mel scale.

    Source: HTK's mel = 2595 log10(1 + f / 700); peak height 1.
    """
    bins = torch.linspace(0, config.sample_rate / 2, WINDOW_SAMPLES // 2 + 1, dtype=torch.float64)
    low, high = (2595 * torch.log10(1 + torch.tensor(f, dtype=torch.float64) / 700) for f in (LOWEST_HZ, HIGHEST_HZ))
    mels = torch.linspace(0, 1, config.num_mels + 2, dtype=torch.float64) * (high - low) + low
    edges = 700 * (10 ** (mels / 2595) - 1)
    rise = (bins[:, None] - edges[:-2]) / (edges[1:-1] - edges[:-2])
    fall = (edges[2:] - bins[:, None]) / (edges[2:] - edges[1:-1])
    return torch.minimum(rise, fall).clamp(min=0).float()


def history_samples(config: AudioConfig) -> int:
    """Samples before a frame that its first hop looks back on."""
    return WINDOW_SAMPLES - config.frame_samples // config.hops_per_frame


def frame_features(samples: Float[Tensor, "b t"], config: AudioConfig) -> Float[Tensor, "b t_frames k"]:
    """Features of every whole pixel frame in `samples`, about [-1, 1]; the past before the first sample is silence.

    Raises:
        ValueError: the samples are no whole number of pixel frames.
    """
    if samples.shape[1] % config.frame_samples:
        raise ValueError(
            f"samples has {samples.shape[1]} samples, must be a multiple of frame_samples={config.frame_samples}: pad "
            "the end with silence."
        )
    return continued_features(F.pad(samples, (history_samples(config), 0)), config)


def continued_features(samples: Float[Tensor, "b t"], config: AudioConfig) -> Float[Tensor, "b t_frames k"]:
    """As `frame_features`, for samples that start with the `history_samples` before the first frame."""
    hop = config.frame_samples // config.hops_per_frame
    windows = samples.unfold(1, WINDOW_SAMPLES, hop) * torch.hann_window(WINDOW_SAMPLES, device=samples.device)
    power = torch.fft.rfft(windows).abs().square() / WINDOW_SAMPLES
    energy = power @ mel_filters(config).to(samples.device)
    features = (energy.clamp(min=SILENCE).log10() + 3) / 3
    return features.flatten(1).unflatten(1, (-1, config.frame_features))


def chunk_windows(
    features: Float[Tensor, "b t_frames k"], config: AudioConfig, *, temporal_stride: int
) -> Float[Tensor, "b f w"]:
    """The window of each latent frame that has all its left context and lookahead inside `features`.

    Latent frame i of the result belongs to pixel frames left_frames + i * temporal_stride and on.
    """
    length = config.left_frames + temporal_stride + config.lookahead_frames
    return features.unfold(1, length, temporal_stride).transpose(2, 3).flatten(2)


def own_features(
    windows: Float[Tensor, "b f w"], config: AudioConfig, *, temporal_stride: int
) -> Float[Tensor, "b t_frames k"]:
    """Features of the latent frames' own pixel frames: `chunk_windows` without left context and lookahead."""
    per_frame = windows.unflatten(2, (-1, config.frame_features))
    return per_frame[:, :, config.left_frames :][:, :, :temporal_stride].flatten(1, 2)
