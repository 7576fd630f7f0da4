"""Frozen weights that stay on the host and are copied to the device block by block, while the block computes.

A block's copy lives as long as something needs it: without gradient until the block is done, with gradient until its
backward pass. So that the backward pass, too, has one block at a time there, run with checkpoint_blocks=true, which
brings each block again when it computes it again.
"""

from collections.abc import Callable, Iterable
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from gwm.dit import DiT
from gwm.weights import has_values


class _Held(NamedTuple):
    """Where a weight belongs, and the host's copy of it."""

    module: nn.Module
    name: str
    weight: Tensor


def offload(frozen: DiT, sharing: Iterable[DiT] = ()) -> int:
    """Keep the weights of a frozen model on the host, also in models that share them; how many bytes they are.

    Pinned where there is a GPU. They are no parameters any more: nothing moves, averages or saves them. Call this last:
    copies of an offloaded model compute with the original's weights.
    """
    host = {id(parameter): _pinned(parameter.detach()) for parameter in frozen.parameters()}
    for model in (frozen, *sharing):
        for part in (*model.blocks, model):  # the model itself last: what lies outside of its blocks
            part.forward = _bringing(part.forward, _taken(part, host))
    return sum(weight.nbytes for weight in host.values())


def bring(weight: Tensor, device: torch.device) -> Tensor:
    """A weight on the device that computes with it; itself where it is there already. A plan, whose tensors are all on
    one device, counts the copy too."""
    there = weight.device == device and has_values([weight])
    return weight if there else weight.to(device, non_blocking=True, copy=True)


def _pinned(weight: Tensor) -> Tensor:
    return weight.pin_memory() if torch.cuda.is_available() else weight


def _taken(part: nn.Module, host: dict[int, Tensor]) -> list[_Held]:
    """Replace the parameters that are on the host by plain tensors, which are not registered."""
    held = []
    for module in part.modules():
        for name, parameter in list(module.named_parameters(recurse=False)):
            if id(parameter) in host:
                delattr(module, name)
                setattr(module, name, host[id(parameter)])
                held.append(_Held(module, name, host[id(parameter)]))
    return held


def _bringing(forward: Callable[..., Any], held: list[_Held]) -> Callable[..., Any]:
    def with_weights(x: Tensor, *inputs: Any, **named: Any) -> Any:
        for module, name, weight in held:
            setattr(module, name, bring(weight, x.device))
        try:
            return forward(x, *inputs, **named)
        finally:
            for module, name, weight in held:
                setattr(module, name, weight)

    return with_weights
