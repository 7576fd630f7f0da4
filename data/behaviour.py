"""Behaviour of a face besides speech: head, blinks, gaze, brows, nods. Pure functions of a generator and
of prosody: loudness and pitch of a voice at the video rate."""

from collections.abc import Sequence

import numpy as np
from jaxtyping import Float
from scipy.signal import find_peaks, lfilter

from gwm.blinks import BLINKS, BLINKS_PER_MINUTE, MIN_BLINK_GAP_S
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


Track = Float[np.ndarray, " f"]

NOD_S = 0.5  # down and up again
NOD_RAD = 0.17
NOD_DELAY_S = (0.2, 0.4)  # after the syllable it answers
MIN_NOD_GAP_S = 0.7
RAISE_S = (0.25, 0.7)  # brows: up, and down again
RAISE = 0.6
RAISE_SHARE = 0.5  # of the syllables that could be answered so
MIN_RAISE_GAP_S = 1.6
LOOK_DELAY_S = (0.15, 0.35)  # of the eyes, after the other begins to speak
LOOK_S = (1.2, 2.5)


def smooth_noise(rng: np.random.Generator, num_frames: int, *, cutoff_hz: float, fps: int) -> Track:
    """Stationary noise of unit variance without energy far above `cutoff_hz`: an Ornstein-Uhlenbeck process, smoothed.

    Two equal one-pole filters of white noise; the second removes the jitter of the first.
    """
    pole = float(np.exp(-2 * np.pi * cutoff_hz / fps))
    warm_up = int(8 / (1 - pole))
    noise = lfilter([1], [1, -2 * pole, pole**2], rng.standard_normal(num_frames + warm_up))[warm_up:]
    variance = (1 + pole**2) / (1 - pole**2) ** 3
    return (noise / np.sqrt(variance)).astype(np.float32)


def blinks(rng: np.random.Generator, num_frames: int, *, onsets: Sequence[int], fps: int) -> Track:
    """Closure of both lids in [0, 1]: a Poisson process, and half of the times somebody starts to speak."""
    rate = BLINKS_PER_MINUTE / 60 / fps
    wanted = rng.random(num_frames) < rate
    for onset in onsets:
        wanted[onset] |= rng.random() < 0.5
    closure = np.zeros(num_frames, np.float32)
    last = -MIN_BLINK_GAP_S * fps
    for frame in np.flatnonzero(wanted):
        shape = np.array(BLINKS[rng.integers(len(BLINKS))], np.float32)[: num_frames - frame]
        if frame - last >= MIN_BLINK_GAP_S * fps:
            closure[frame : frame + len(shape)] = shape
            last = frame
    return closure


def gaze(
    rng: np.random.Generator, num_frames: int, *, fps: int, addressed: Sequence[int] = ()
) -> Float[np.ndarray, "f 2"]:
    """Eye direction (x, y) in [-1, 1]: jumps between the camera, mostly, and points nearby, with small tremor.

    addressed: frames in which the other begins to speak; a moment later the eyes are on the camera for a while.
    """
    out = np.zeros((num_frames, 2), np.float32)
    frame = 0
    while frame < num_frames:
        at_camera = rng.random() < 0.75
        target = rng.normal(0, (0.03, 0.03)) if at_camera else rng.uniform((-0.7, -0.4), (0.7, 0.4))
        hold_s = rng.uniform(0.8, 3.0) if at_camera else rng.uniform(0.3, 0.9)
        stop = frame + max(3, int(hold_s * fps))
        out[frame:stop] = target
        if 0 < frame < num_frames:
            out[frame] = (out[frame - 1] + out[frame]) / 2  # a saccade lasts 30 to 80 ms: one frame between
        frame = stop
    for onset in addressed:
        start = onset + round(rng.uniform(*LOOK_DELAY_S) * fps)
        stop = start + round(rng.uniform(*LOOK_S) * fps)
        target = rng.normal(0, (0.03, 0.03))
        out[start:stop] = target
        if 0 < start < num_frames:
            out[start] = (out[start - 1] + target) / 2
    return out.clip(-1, 1)


def nods(rng: np.random.Generator, heard: Track, *, fps: int) -> Track:
    """Downward head pitch in radians with which a listener answers `heard`, the energy of the other's voice.

    Each stressed syllable far enough from the one before it is followed, after 200 to 400 ms, by one nod, deeper the
    louder the syllable was. Nothing in it depends on the future of the voice but the peak itself.
    """
    out = np.zeros(len(heard), np.float32)
    nod = np.sin(np.pi * np.linspace(0, 1, int(NOD_S * fps))) ** 2
    for peak in accents(heard, min_distance=int(MIN_NOD_GAP_S * fps)):
        start = peak + round(rng.uniform(*NOD_DELAY_S) * fps)
        end = min(start + len(nod), len(heard))
        if start < end:
            out[start:end] += NOD_RAD * heard[peak] * rng.uniform(0.7, 1.0) * nod[: end - start]
    return out


def interest(rng: np.random.Generator, heard: Track, *, fps: int) -> Track:
    """How far a listener's brows rise in answer to `heard`, the energy of the other's voice: after some of its stressed
    syllables, quickly up and slowly down, higher the louder the syllable was."""
    out = np.zeros(len(heard), np.float32)
    up, down = np.linspace(0, 1, int(RAISE_S[0] * fps)), np.linspace(1, 0, int(RAISE_S[1] * fps))
    shape = np.sin(np.pi / 2 * np.concatenate([up, down])) ** 2
    for peak in accents(heard, min_distance=int(MIN_RAISE_GAP_S * fps)):
        wanted, start = rng.random() < RAISE_SHARE, peak + round(rng.uniform(*NOD_DELAY_S) * fps)
        height, end = RAISE * heard[peak] * rng.uniform(0.6, 1.0), min(start + len(shape), len(heard))
        if wanted and start < end:
            out[start:end] = np.maximum(out[start:end], height * shape[: end - start])
    return out


def emphasis(loudness: Track, semitones: Track) -> Track:
    """How much the speaker stresses each frame, in [0, 1]: loud and above the usual pitch, smoothed over 5 frames."""
    raised = loudness * (0.4 + 0.15 * semitones).clip(0, 1)
    kernel = np.hanning(7)[1:-1]
    return np.convolve(raised, kernel / kernel.sum(), mode="same")[: len(loudness)].astype(np.float32)


def head(
    rng: np.random.Generator, *, spoken: Track, stress: Track, nodding: Track, fps: int
) -> Float[np.ndarray, "f 3"]:
    """Yaw, pitch and roll in radians, pitch upwards positive.

    A slow sway with an offset of its own; while speaking, a livelier one, and the head dips on stressed syllables.
    """
    num_frames = len(spoken)
    slow = np.stack([smooth_noise(rng, num_frames, cutoff_hz=0.25, fps=fps) for _ in range(3)], axis=1)
    quick = np.stack([smooth_noise(rng, num_frames, cutoff_hz=0.9, fps=fps) for _ in range(3)], axis=1)
    offset = rng.normal(0, (0.10, 0.05, 0.03))
    lively = np.convolve(spoken, np.hanning(13) / np.hanning(13).sum(), mode="same")[:num_frames, None]
    pose = offset + slow * (0.05, 0.025, 0.025) + quick * lively * (0.05, 0.035, 0.025)
    pose[:, 1] -= 0.10 * stress + nodding
    return pose.clip((-0.45, -0.35, -0.2), (0.45, 0.3, 0.2)).astype(np.float32)
