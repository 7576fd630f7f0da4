"""Matrices stored in eight bits with one scale a row: half the size of bfloat16, for little more error.

Only files are smaller: `unpacked` gives floats back, and networks compute as always. `serve.quantise` is about speed.
"""

from collections.abc import Mapping

import torch
from torch import Tensor

SCALE = ".row_scale"  # behind a matrix's name: what its rows are multiplied by
STEPS = 127


def packed(weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Matrices of a DiT's blocks, which are most of it, in int8 with their scales; everything else in float16."""
    out: dict[str, Tensor] = {}
    for name, weight in weights.items():
        if name.startswith("blocks.") and name.endswith(".weight") and weight.ndim == 2:
            scale = weight.float().abs().amax(dim=1, keepdim=True).clamp(min=1e-12) / STEPS
            out |= {name: (weight.float() / scale).round().to(torch.int8), name + SCALE: scale}
        else:
            out[name] = weight.half()
    return out


def unpacked(weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """What `packed` was given, up to rounding; weights that are not packed are themselves."""
    plain = {name: weight for name, weight in weights.items() if not name.endswith(SCALE)}
    return {
        name: weight.float() * weights[name + SCALE] if name + SCALE in weights else weight
        for name, weight in plain.items()
    }
