"""Rotary position embedding over (frame, row, column), for streams without an end.

Attention sees only differences of positions, so keys are rotated once at their absolute frame and never again.
Angles are reduced in float64 before the cosine: at latent frame 57,600, after 2 h 40 min at 24 fps, one unit in the
last place of a float32 angle is already 0.004 rad.
"""

import math

import torch
from jaxtyping import Float, Int
from torch import Tensor

THETA = 10_000.0

# Cosine and sine, each value repeated for its pair; one row turns all tokens alike.
Rotation = tuple[Float[Tensor, "#l e"], Float[Tensor, "#l e"]]


def axis_pairs(head_dim: int) -> tuple[int, int, int]:
    """Rotated pairs for frame, row and column.

    Source: Wan 2.1: of head_dim, 2 * (head_dim // 6) channels each go to row and column, the rest to the frame.
    """
    space = head_dim // 6
    return head_dim // 2 - 2 * space, space, space


def rotation(frame: Int[Tensor, "f"], rows: int, columns: int, head_dim: int, *, first_row: int = 0) -> Rotation:
    """Cosines and sines of all tokens of the given latent frames, each a grid of rows x columns, in float32."""
    t, y, x = axis_pairs(head_dim)
    device = frame.device
    grid = (len(frame), rows, columns)
    parts = (
        _angles(frame, t)[:, None, None].expand(*grid, -1),
        _angles(first_row + torch.arange(rows, device=device), y)[None, :, None].expand(*grid, -1),
        _angles(torch.arange(columns, device=device), x)[None, None].expand(*grid, -1),
    )
    return _cos_sin(torch.cat(parts, dim=-1).flatten(0, 2))


def time_rotation(shift: Int[Tensor, ""], head_dim: int) -> Rotation:
    """The rotation that moves keys by `shift` latent frames and leaves their row and column alone; one token."""
    t, y, x = axis_pairs(head_dim)
    angles = torch.cat([_angles(shift[None], t), torch.zeros(1, y + x, dtype=torch.float64, device=shift.device)], -1)
    return _cos_sin(angles)


def _angles(position: Int[Tensor, "k"], pairs: int) -> Float[Tensor, "k j"]:
    # As Wan: frequencies theta^(-2j/d) with d the channels of this axis alone.
    exponent = torch.arange(pairs, dtype=torch.float64, device=position.device) / pairs
    angle = position.double()[:, None] * THETA ** (-exponent)
    return torch.remainder(angle, 2 * math.pi)


def _cos_sin(angles: Float[Tensor, "l j"]) -> Rotation:
    return (
        angles.cos().float().repeat_interleave(2, dim=-1),
        angles.sin().float().repeat_interleave(2, dim=-1),
    )
