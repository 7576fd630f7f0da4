"""Programs that read memory they never wrote: seen by giving them memory of different contents."""

import ctypes
from collections.abc import Callable
from typing import TypeVar

import numpy as np
import pytest

M_PERTURB = -6  # malloc.h: glibc fills memory with the complement of this byte when it hands it out
BYTES = (0, 1, 85, 165, 255)

Result = TypeVar("Result")


def results(make: Callable[[], Result]) -> set[Result]:
    """What `make` returns for fresh memory of several contents: one value, if it reads only what it wrote."""
    libc = ctypes.CDLL(None)
    if not hasattr(libc, "gnu_get_libc_version"):
        pytest.skip("needs glibc, which can fill the memory that it hands out")
    try:
        return {make() for byte in BYTES if libc.mallopt(M_PERTURB, byte)}
    finally:
        libc.mallopt(M_PERTURB, 0)


def moving(num_frames: int, size_px: int) -> np.ndarray:
    """Frames that an encoder compresses by looking ahead, where x264 reads memory that it never wrote."""
    time, y, x, colour = np.ogrid[:num_frames, 0 : 1 : size_px * 1j, 0 : 1 : size_px * 1j, :3]
    return (128 + 120 * np.sin(9 * x + time / 5 + colour) * np.cos(7 * y - time / 7 * colour)).astype(np.uint8)
