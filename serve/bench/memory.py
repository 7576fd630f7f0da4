"""What the process holds: live tensors on a GPU, resident pages on a CPU."""

import gc
import resource
from pathlib import Path

import torch

PROCESS = Path("/proc/self")


def allocated(device: torch.device) -> int:
    """Bytes now."""
    if device.type == "cuda":
        return torch.cuda.memory_allocated(device)
    gc.collect()
    return int((PROCESS / "statm").read_text().split()[1]) * resource.getpagesize()


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
