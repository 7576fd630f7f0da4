"""Memory of the process: live tensors on a GPU, resident pages on a CPU."""

import gc
import resource
from collections.abc import Sequence
from pathlib import Path

import torch

PROCESS = Path("/proc/self")


def allocated(device: torch.device) -> int:
    """Bytes that are allocated now."""
    if device.type == "cuda":
        return torch.cuda.memory_allocated(device)
    gc.collect()
    return int((PROCESS / "statm").read_text().split()[1]) * resource.getpagesize()


def growth(sizes: Sequence[int], *, every: int = 1) -> float:
    """Bytes per 1000 chunks, of sizes seen `every` so many chunks: between the smallest of the last quarter and of the
    one before. What a chunk takes, and the allocator gives back now and then, is no growth.

    Raises:
        ValueError: fewer than two sizes.
    """
    if len(sizes) < 2:
        raise ValueError(f"{len(sizes)} sizes, must be at least 2: growth is a difference. Measure more chunks.")
    quarter = max(1, len(sizes) // 4)
    before, after = min(sizes[-2 * quarter : -quarter]), min(sizes[-quarter:])
    return 1000 * (after - before) / (quarter * every)


def reset_peak(device: torch.device) -> None:
    """Forget earlier peaks: each case has its own."""
    if device.type == "cuda":
        return torch.cuda.reset_peak_memory_stats(device)
    (PROCESS / "clear_refs").write_text("5")  # man 5 proc: the peak becomes what is resident now


def peak(device: torch.device) -> int:
    """Most bytes at a time since `reset_peak`."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    line = next(line for line in (PROCESS / "status").read_text().splitlines() if line.startswith("VmHWM"))
    return 1024 * int(line.split()[1])
