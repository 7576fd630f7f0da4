import struct

import numpy as np

from gwm.media.sound import from_pcm, to_pcm


def test_bytes_are_what_struct_packs():
    samples = np.array([0.0, 1.0, -1.0, 0.5, 3.0, -3.0], np.float32)
    assert to_pcm(samples).tobytes() == struct.pack("<6h", 0, 32767, -32767, 16383, 32767, -32767)


def test_a_round_trip_keeps_sixteen_bits():
    samples = np.random.default_rng(0).uniform(-1, 1, 1000).astype(np.float32)
    again = from_pcm(to_pcm(samples).tobytes())
    assert np.abs(again - samples).max() <= 2 / 2**15 and from_pcm(b"\x00\x80")[0] == -1
