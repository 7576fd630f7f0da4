"""How fast a machine multiplies matrices: what the speed of training is compared with."""

import time

import torch

MATRIX = {"cpu": 1024, "cuda": 8192}  # rows and columns: large enough to be limited by arithmetic
ROUNDS = 5


def matmul_flops(dtype: torch.dtype, device: str = "cpu") -> float:
    """Operations a second of the fastest of a few products of square matrices."""
    size = MATRIX[device]
    a, b = torch.randn(2, size, size, dtype=dtype, device=device)
    best = min(timed(lambda: a @ b, device) for _ in range(ROUNDS + 1))
    return 2 * size**3 / best


def timed(function, device: str) -> float:
    """Seconds of one call, the device's work included."""
    synchronize(device)
    start = time.perf_counter()
    function()
    synchronize(device)
    return time.perf_counter() - start


def synchronize(device: str) -> None:
    if device == "cuda":
        torch.cuda.synchronize()
