"""Smaller clips: at half the resolution, and random crops that favour motion, as lips and eyes are few pixels."""

import dataclasses

import numpy as np
from jaxtyping import Float, UInt8

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


def motion(frames: UInt8[np.ndarray, "t h w 3"]) -> Float[np.ndarray, "h w"]:
    """Mean absolute difference of successive frames, per pixel."""
    steps = np.abs(np.diff(frames.astype(np.int16), axis=0)).mean(axis=(0, 3))
    return steps.astype(np.float32)


def moving_crops(
    frames: UInt8[np.ndarray, "t h w 3"],
    rng: np.random.Generator,
    *,
    num_crops: int,
    num_frames: int,
    size: int,
    half_share: float,
) -> UInt8[np.ndarray, "n num_frames size size 3"]:
    """Random crops in space and time, centred on pixels drawn in proportion to their motion; a share of the clips
    at half resolution where that leaves room, and mirrored at random.

    Raises:
        ValueError: the clip is smaller or shorter than a crop.
    """
    t, h, w, _ = frames.shape
    if t < num_frames or min(h, w) < size:
        raise ValueError(f"clip of {t} frames {h}x{w} must hold a crop of {num_frames} frames {size}x{size}.")
    if min(h, w) >= 2 * size and rng.random() < half_share:
        frames = halve(frames)
        t, h, w, _ = frames.shape
    chance = motion(frames)
    chance = (chance + chance.mean() + 1e-3).ravel()  # still places keep a third of the draws or so
    centres = rng.choice(h * w, size=num_crops, p=chance / chance.sum())
    crops = []
    for centre in centres:
        top = int(np.clip(centre // w - size // 2, 0, h - size))
        left = int(np.clip(centre % w - size // 2, 0, w - size))
        start = int(rng.integers(t - num_frames + 1))
        crop = frames[start : start + num_frames, top : top + size, left : left + size]
        crops.append(crop[:, :, ::-1] if rng.random() < 0.5 else crop)
    return np.stack(crops)
