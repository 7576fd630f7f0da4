"""Pixels between the edges of the system (uint8, rows first) and the models (float, channels first)."""

import numpy as np
import torch
from jaxtyping import Float, UInt8
from torch import Tensor

from gwm.transfer import to_host


def to_float(pixel_frames: UInt8[np.ndarray, "*b h w 3"]) -> Float[Tensor, "*b 3 h w"]:
    """uint8 RGB to [-1, 1]."""
    return as_float(to_tensor(pixel_frames))


def to_uint8(pixel_frames: Float[Tensor, "*b 3 h w"]) -> UInt8[np.ndarray, "*b h w 3"]:
    """Inverse of `to_float`; values outside [-1, 1] are clamped."""
    return to_host(as_bytes(pixel_frames)).numpy()


def to_tensor(pixel_frames: UInt8[np.ndarray, "*b h w 3"]) -> UInt8[Tensor, "*b h w 3"]:
    """The same storage where that is contiguous and writable, else a copy."""
    return torch.from_numpy(np.require(pixel_frames, requirements=["C", "W"]))


def as_float(pixel_frames: UInt8[Tensor, "*b h w 3"]) -> Float[Tensor, "*b 3 h w"]:
    """As `to_float`, on the same device."""
    return pixel_frames.movedim(-1, -3).float() / 127.5 - 1


def as_bytes(pixel_frames: Float[Tensor, "*b 3 h w"]) -> UInt8[Tensor, "*b h w 3"]:
    """As `to_uint8`, on the same device."""
    scaled = (pixel_frames.float().clamp(-1, 1) + 1) * 127.5
    return scaled.round().to(torch.uint8).movedim(-3, -1).contiguous()
