"""Speed of an artifact on this machine, measured before any metric is loaded."""

import resource
from typing import Any

import numpy as np
import torch

from evaluate.cases import Case
from evaluate.examine import play
from gwm.report.machine import num_cores, processor
from serve.artifact import Artifact

PERCENTILES = (50, 95, 99)


def machine() -> str:
    """Processor, threads, graphics card and torch, in words."""
    parts = [f"{processor()}, {num_cores() or '?'} cores"]
    parts.append(f"{torch.get_num_threads()} threads")
    if torch.cuda.is_available():
        parts.append(torch.cuda.get_device_name())
    return ", ".join([*parts, f"torch {torch.__version__}"])


def measure_speed(artifact: Artifact, case: Case, *, runs: int) -> dict[str, Any]:
    """Milliseconds per chunk over `runs` plays of a clip, after one that warms up; the first chunk, which encodes the
    portrait too, apart."""
    play(artifact, case, seed=0)
    times = [play(artifact, case, seed=run)[1] for run in range(runs)]
    later = np.concatenate([ms[1:] for ms in times])
    contract = artifact.contract
    return {
        **{f"ms_per_chunk_p{p}": float(np.percentile(later, p)) for p in PERCENTILES},
        "first_chunk_ms": float(np.median([ms[0] for ms in times])),
        "chunk_ms": contract.chunk_ms,
        "fps": 1000 * contract.chunk_pixel_frames / float(later.mean()),
        **memory(artifact),
        "machine": machine(),
    }


def memory(artifact: Artifact) -> dict[str, float]:
    """Most memory the process has held so far, in MB, and most of a graphics card's where there is one."""
    used = {"memory_mb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1000}
    device = next(artifact.dit.parameters()).device
    if device.type == "cuda":
        used["gpu_memory_mb"] = torch.cuda.max_memory_allocated(device) / 1e6
    return used
