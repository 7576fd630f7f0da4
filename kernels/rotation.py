"""Rotation of channel pairs, the inner part of two operations."""

import torch
from jaxtyping import Float
from torch import Tensor


def rotate_pairs(
    x: Float[Tensor, "b l n e"], cos: Float[Tensor, "#l e"], sin: Float[Tensor, "#l e"]
) -> Float[Tensor, "b l n e"]:
    """Rotate interleaved pairs of channels, in float32 as in Wan 2.1; cosine and sine hold each value twice."""
    cos, sin = cos[:, None], sin[:, None]
    even, odd = x.float().unflatten(-1, (-1, 2)).unbind(-1)
    turned = torch.stack((-odd, even), dim=-1).flatten(-2)
    return (x.float() * cos + turned * sin).to(x.dtype)
