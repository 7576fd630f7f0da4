"""Pixels between the edges of the system (uint8, rows first) and the models (float, channels first)."""

import dataclasses

import numpy as np
import torch
from jaxtyping import Float, UInt8
from torch import Tensor

from data.shards import Clip


def to_float(pixel_frames: UInt8[np.ndarray, "*b h w 3"]) -> Float[Tensor, "*b 3 h w"]:
    """uint8 RGB to [-1, 1]."""
    return torch.from_numpy(np.ascontiguousarray(pixel_frames)).movedim(-1, -3).float() / 127.5 - 1


def to_uint8(pixel_frames: Float[Tensor, "*b 3 h w"]) -> UInt8[np.ndarray, "*b h w 3"]:
    """[-1, 1] to uint8 RGB, rounded; values outside are clamped."""
    scaled = (pixel_frames.float().clamp(-1, 1) + 1) * 127.5
    return scaled.round().to(torch.uint8).movedim(-3, -1).contiguous().cpu().numpy()


def halve(frames: UInt8[np.ndarray, "*b h w 3"]) -> UInt8[np.ndarray, "*b h/2 w/2 3"]:
    """Half the resolution, by averaging 2x2 pixels."""
    *lead, h, w, _ = frames.shape
    blocks = frames.reshape(*lead, h // 2, 2, w // 2, 2, 3)
    return np.round(blocks.mean(axis=(-4, -2))).astype(np.uint8)


def halved(clip: Clip, resolution: int) -> Clip:
    """The clip at `resolution`, which is its own or half of it.

    Raises:
        ValueError: it is neither.
    """
    own = clip.frames.shape[1]
    if resolution == own:
        return clip
    if 2 * resolution != own:
        raise ValueError(f"resolution={resolution} must be {own}, that of the shards, or half of it.")
    return dataclasses.replace(clip, frames=halve(clip.frames), reference=halve(clip.reference))
