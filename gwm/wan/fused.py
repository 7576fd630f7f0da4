"""Wan's decoder on GPUs: norm, SiLU and what a causal convolution remembers, in one pass over memory."""

from functools import partial
from typing import Any

import torch.nn.functional as F
from torch import Tensor, nn

from kernels.causal_input import causal_input

EPS = 1e-24  # of the mean square, where diffusers divides by a norm of at least 1e-12: either way black stays black
BLOCK = "WanResidualBlock"


def fuse(decoder: nn.Module) -> None:
    """Let the residual blocks of diffusers' decoder use `causal_input`, in channels-last memory.

    Only where a stream is decoded, so with a memory. The same but for rounding, which diffusers does between norm,
    weight and SiLU too.
    """
    for module in decoder.modules():
        if type(module).__name__ == BLOCK:
            module.forward = partial(_residual, module)


def _residual(block: Any, x: Tensor, feat_cache: list[Any], feat_idx: list[int]) -> Tensor:
    """Arguments are called as diffusers calls them: what all convolutions remember, and whose turn it is."""
    y = _convolved(block.norm1, block.conv1, x, feat_cache, feat_idx)
    return block.conv_shortcut(x) + _convolved(block.norm2, block.conv2, y, feat_cache, feat_idx)


def _convolved(norm: Any, conv: nn.Conv3d, x: Tensor, memory: list[Any], place: list[int]) -> Tensor:
    frames, past = x.movedim(1, -1), memory[place[0]].movedim(1, -1)
    num_frames, num_past = frames.shape[1], past.shape[1]
    buffer = frames.new_empty(len(x), num_frames + num_past, *frames.shape[2:])
    buffer[:, num_frames:] = past  # where it was before the kernel moves the buffer on
    causal_input(frames, norm.gamma.flatten(), buffer, eps=EPS)
    made = buffer.movedim(-1, 1)
    memory[place[0]] = made[:, :, -num_past:]
    place[0] += 1
    return F.conv3d(made, conv.weight, conv.bias, padding=(0, 1, 1))
