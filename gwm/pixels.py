"""Pixels between the edges of the system (uint8, rows first) and the models (float, channels first)."""

import numpy as np
import torch
from jaxtyping import Float, UInt8
from torch import Tensor

from gwm.transfer import to_host


def to_float(pixel_frames: UInt8[np.ndarray, "*b h w 3"]) -> Float[Tensor, "*b 3 h w"]:
    """uint8 RGB to [-1, 1]."""
    return torch.from_numpy(np.require(pixel_frames, requirements=["C", "W"])).movedim(-1, -3).float() / 127.5 - 1


def rounded(pixel_frames: Float[Tensor, "*b 3 h w"]) -> UInt8[Tensor, "*b h w 3"]:
    """[-1, 1] to uint8 RGB on the same device; values outside are clamped."""
    scaled = (pixel_frames.float().clamp(-1, 1) + 1) * 127.5
    return scaled.round().to(torch.uint8).movedim(-3, -1).contiguous()


def to_uint8(pixel_frames: Float[Tensor, "*b 3 h w"]) -> UInt8[np.ndarray, "*b h w 3"]:
    """As `rounded`, in the host's memory."""
    return to_host(rounded(pixel_frames)).numpy()
