"""16-bit PCM, as files, sockets and WebRTC carry sound; inside, samples are floats in [-1, 1]."""

import numpy as np
from jaxtyping import Float, Int16

Buffer = bytes | bytearray | memoryview


def from_pcm(data: Buffer) -> Float[np.ndarray, " t"]:
    """Samples of little-endian 16-bit PCM; channels stay interleaved."""
    return np.frombuffer(data, "<i2").astype(np.float32) / 2**15


def to_pcm(samples: Float[np.ndarray, "*t"]) -> Int16[np.ndarray, "*t"]:
    """Inverse of `from_pcm` up to rounding towards zero; samples outside [-1, 1] are clamped."""
    return (samples.clip(-1, 1) * (2**15 - 1)).astype("<i2")
