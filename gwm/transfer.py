"""Tensors from the host to the device that computes with them, and back."""

import torch
from torch import Tensor


def to_device(x: Tensor, device: torch.device, dtype: torch.dtype | None = None) -> Tensor:
    """A copy on `device`. A GPU gets it through pinned memory: from pageable memory the host would wait for all that
    the stream has still to do."""
    dtype = x.dtype if dtype is None else dtype
    if device.type == "cuda":
        return x.pin_memory().to(device, dtype, non_blocking=True)
    return x.to(device, dtype)


def to_host(x: Tensor) -> Tensor:
    """A copy in the host's memory, complete on return. A GPU writes to pinned memory, a hundred times as fast."""
    if x.device.type != "cuda":
        return x.to("cpu", copy=True)
    pinned = torch.empty(x.shape, dtype=x.dtype, pin_memory=True)
    pinned.copy_(x, non_blocking=True)
    torch.cuda.current_stream(x.device).synchronize()
    return pinned
