"""Clips at half their resolution."""

import dataclasses

import numpy as np
from jaxtyping import UInt8

from data.shards import Clip
from gwm.resolution import Resolution


def halve(frames: UInt8[np.ndarray, "*b h w 3"]) -> UInt8[np.ndarray, "*b h//2 w//2 3"]:
    """Half the resolution, by averaging 2x2 pixels."""
    *lead, h, w, _ = frames.shape
    blocks = frames.reshape(*lead, h // 2, 2, w // 2, 2, 3)
    return np.round(blocks.mean(axis=(-4, -2))).astype(np.uint8)


def halved(clip: Clip, resolution: Resolution) -> Clip:
    """The clip at `resolution`, which is its own or half of it.

    Raises:
        ValueError: it is neither.
    """
    height, width = clip.frames.shape[1:3]
    if resolution.shape == (height, width):
        return clip
    if (2 * resolution.height, 2 * resolution.width) != (height, width):
        raise ValueError(
            f"resolution={resolution} must be {Resolution(height, width)}, that of the shards, or half of it in height "
            "and width. Make shards of another resolution for it."
        )
    return dataclasses.replace(clip, frames=halve(clip.frames), reference=halve(clip.reference))
