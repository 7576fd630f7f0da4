"""Loudness and pitch of a voice at the video rate, which move head and brows."""

import numpy as np
from jaxtyping import Float
from scipy.signal import find_peaks

from gwm.clock import SAMPLE_RATE

FULL_SCALE_RMS = 0.12  # RMS of a loud espeak vowel at gain 1; maps to energy 1
F0_MIN_HZ, F0_MAX_HZ = 70, 420
PITCH_WINDOW = 2048  # samples: three periods at F0_MIN_HZ
VOICED = 0.45  # minimum normalised autocorrelation of a voiced frame


def energy(samples: Float[np.ndarray, " t"], *, samples_per_frame: int) -> Float[np.ndarray, " f"]:
    """Loudness of each frame in [0, 1]: RMS over the frame, smoothed over three frames."""
    rms = np.sqrt(np.square(samples.reshape(-1, samples_per_frame)).mean(axis=1))
    return np.convolve(rms / FULL_SCALE_RMS, [0.25, 0.5, 0.25], mode="same").clip(0, 1).astype(np.float32)


def pitch(samples: Float[np.ndarray, " t"], *, samples_per_frame: int) -> Float[np.ndarray, " f"]:
    """Semitones above the clip's median pitch; 0 in unvoiced frames. Autocorrelation of a window around each frame."""
    num_frames = len(samples) // samples_per_frame
    centres = (np.arange(num_frames) * samples_per_frame) + samples_per_frame // 2
    padded = np.pad(samples, PITCH_WINDOW // 2)
    windows = np.lib.stride_tricks.sliding_window_view(padded, PITCH_WINDOW)[centres]
    spectrum = np.fft.rfft(windows * np.hanning(PITCH_WINDOW), n=2 * PITCH_WINDOW)
    correlation = np.fft.irfft(np.square(np.abs(spectrum)))[:, :PITCH_WINDOW]
    low, high = SAMPLE_RATE // F0_MAX_HZ, SAMPLE_RATE // F0_MIN_HZ
    lag = correlation[:, low:high].argmax(axis=1) + low
    strength = correlation[np.arange(num_frames), lag] / np.maximum(correlation[:, 0], 1e-6)
    voiced = strength > VOICED
    if not voiced.any():
        return np.zeros(num_frames, np.float32)
    semitones = 12 * np.log2(np.median(lag[voiced]) / lag)
    return np.where(voiced, semitones, 0).astype(np.float32)


def accents(loudness: Float[np.ndarray, " f"], *, min_distance: int) -> list[int]:
    """Frames of the stressed syllables: loudness peaks above 0.3, at least `min_distance` frames apart."""
    peaks, _ = find_peaks(np.pad(loudness, 1), height=0.3, distance=min_distance, prominence=0.1)
    return [int(peak) - 1 for peak in peaks]
