"""Motion and colours of a clip: the measures that change first when a rollout collapses."""

import numpy as np
from jaxtyping import Float, UInt8

LUMA = np.array([0.2126, 0.7152, 0.0722])
STILL = 1e-3  # grey levels, added to both sides of a ratio: a still clip has ratio 1


def frame_differences(frames: UInt8[np.ndarray, "f h w 3"]) -> Float[np.ndarray, " f-1"]:
    """Mean absolute difference of neighbouring frames, in grey levels of 255."""
    return np.abs(np.diff(frames.astype(np.float32), axis=0)).mean(axis=(1, 2, 3))


def motion_energy(frames: UInt8[np.ndarray, "f h w 3"]) -> float:
    """Mean absolute difference of neighbouring frames over the clip, in grey levels of 255; 0 is frozen."""
    return float(frame_differences(frames).mean())


def saturation(frames: UInt8[np.ndarray, "f h w 3"]) -> Float[np.ndarray, " f"]:
    """Mean saturation of each frame as HSV defines it, (max - min) / max of the channels, in [0, 1]."""
    high, low = frames.max(axis=-1).astype(np.float32), frames.min(axis=-1)
    return ((high - low) / high.clip(min=1)).mean(axis=(1, 2))


def exposure(frames: UInt8[np.ndarray, "f h w 3"]) -> Float[np.ndarray, " f"]:
    """Mean brightness of each frame in [0, 1]: Rec. 709 luma of the coded values, black is 0."""
    return (frames.reshape(len(frames), -1, 3).mean(axis=1) @ LUMA) / 255


def sharpness(frames: UInt8[np.ndarray, "f h w 3"]) -> Float[np.ndarray, " f"]:
    """Mean absolute Laplacian of each frame's brightness in grey levels; blur lowers it, noise raises it: compare with
    the truth's."""
    grey = frames.astype(np.float32) @ LUMA.astype(np.float32)
    inner = grey[:, 1:-1, 1:-1]
    around = grey[:, :-2, 1:-1] + grey[:, 2:, 1:-1] + grey[:, 1:-1, :-2] + grey[:, 1:-1, 2:]
    return np.abs(4 * inner - around).mean(axis=(1, 2))


def border_flicker(frames: UInt8[np.ndarray, "f h w 3"], *, chunk_frames: int) -> float:
    """Difference across chunk borders over that just before and after, inside chunks; 1 is seamless, 2 shows clearly.

    48 true frames give 0.87 to 1.15, because motion comes in bursts: average over clips.

    Raises:
        ValueError: there is no border with neighbours inside a chunk on both sides.
    """
    if chunk_frames < 2 or len(frames) < chunk_frames + 2:
        raise ValueError(
            f"chunk_frames={chunk_frames} must be at least 2 and the clip 2 frames longer, not {len(frames)}: a border "
            "is compared with the inside of the chunks around it."
        )
    differences = frame_differences(frames) + STILL
    border = np.arange(chunk_frames - 1, len(differences) - 1, chunk_frames)
    inside = (differences[border - 1] + differences[border + 1]) / 2
    return float(differences[border].sum() / inside.sum())
