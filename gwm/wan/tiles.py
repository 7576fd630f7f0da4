"""Large frames decoded in tiles, so that a decoder needs memory for one tile at a time."""

from collections.abc import Callable

import torch
from jaxtyping import Float
from torch import Tensor

Decode = Callable[[Float[Tensor, "b f c i j"]], Float[Tensor, "b t 3 _ _"]]  # latents to pixel frames


def check_tile(tile: int, *, stride: int) -> None:
    """Refuse tiles of these px along each side, where cells are `stride` px wide.

    Raises:
        ValueError: they hold no whole number of cells, or so few that none is shared.
    """
    if tile % stride or tile < 4 * stride:
        raise ValueError(
            f"tile={tile} must be a multiple of {stride} px, and at least {4 * stride}: a quarter of a tile is shared "
            "with the next one."
        )


def decode_tiled(
    decode: Decode, latents: Float[Tensor, "b f c h w"], *, tile: int, stride: int
) -> Float[Tensor, "b t 3 _ _"]:
    """Pixel frames of latents in tiles of `tile` px a side, a multiple of the `stride` px of a cell.

    A quarter of a tile is shared with the next one. There both are mixed, more of that whose edge is farther. Frames
    that one tile holds are decoded whole. A decoder with attention sees one tile at a time, so px are not quite
    those of a frame that is decoded whole.

    Raises:
        ValueError: as `check_tile`.
    """
    check_tile(tile, stride=stride)
    cells = tile // stride
    overlap = cells // 4
    rows, columns = (_starts(size, cells, overlap) for size in latents.shape[-2:])
    if len(rows) == len(columns) == 1:
        return decode(latents)
    total, weights = None, latents.new_zeros(stride * latents.shape[-2], stride * latents.shape[-1])
    for top in rows:
        for left in columns:
            part = decode(latents[..., top : top + cells, left : left + cells])
            if total is None:
                total = part.new_zeros(*part.shape[:-2], *weights.shape)
            down, across = (_ramp(size, overlap * stride).to(weights) for size in part.shape[-2:])
            share = down[:, None] * across
            place = (
                slice(top * stride, top * stride + len(down)),
                slice(left * stride, left * stride + len(across)),
            )
            total[..., *place] += share.to(part) * part
            weights[place] += share
    assert total is not None, "there is at least one tile"
    return total / weights.to(total)


def _starts(size: int, tile: int, overlap: int) -> list[int]:
    """First cells of tiles along a side; the last tile ends with it."""
    if size <= tile:
        return [0]
    return [*range(0, size - tile, tile - overlap), size - tile]


def _ramp(size: int, reach: int) -> Float[Tensor, " p"]:
    """From near 0 at both ends to 1 after `reach` px."""
    place = torch.arange(size) + 0.5
    return (torch.minimum(place, size - place) / reach).clamp(max=1.0)
