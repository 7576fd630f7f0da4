"""Blocks in eight bits: recipes, and the devices that can compute them.

For speed: files keep the exact weights, and blocks are quantised when they are loaded, so that an artifact serves every
device. For size: `packed` stores matrices with one scale a row, half the size of bfloat16 for little more error, and
`unpacked` gives floats back; networks then compute as always.
"""

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from gwm.dit import DiT
from gwm.optional import optional_module

COMMAND = "pip install torchao==0.18.0"
# weights: only storage is smaller, products are as before. Without: activations too, by token, and fast products.
RECIPES = {
    "int8_weights": "Int8WeightOnlyConfig",
    "int8": "Int8DynamicActivationInt8WeightConfig",
    "float8_weights": "Float8WeightOnlyConfig",
    "float8": "Float8DynamicActivationFloat8WeightConfig",
}
FLOAT8_CAPABILITY = (8, 9)  # of CUDA devices that multiply float8: Ada, Hopper and later


def check_recipe(recipe: str, device: torch.device) -> None:
    """Refuse a recipe that cannot be computed.

    Raises:
        ValueError: there is no such recipe, or this device cannot compute it.
    """
    if recipe not in RECIPES:
        raise ValueError(f"quantised={recipe!r} must be one of {sorted(RECIPES)}.")
    able = device.type == "cuda" and torch.cuda.get_device_capability(device) >= FLOAT8_CAPABILITY
    if recipe == "float8" and not able:
        raise ValueError(
            f"quantised='float8' must run on a CUDA device of capability {FLOAT8_CAPABILITY} or later, which "
            f"multiplies float8; device={device} does not. Export with quantise=int8, or without."
        )


def quantise(dit: DiT, recipe: str) -> None:
    """Quantise the linear layers of the blocks in place: nearly all weights, and the layers that bear it best.

    Raises:
        ValueError: as `check_recipe`.
        MissingPackageError: torchao is not installed.
    """
    check_recipe(recipe, dit.head.weight.device)
    torchao = optional_module("torchao.quantization", COMMAND)
    config = vars(torchao)[RECIPES[recipe]]()
    torchao.quantize_(dit.blocks, config, filter_fn=lambda module, name: isinstance(module, nn.Linear))


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
