"""Frames decoded in tiles."""

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from gwm.wan.tiles import decode_tiled

STRIDE = 4


class Enlarging:
    """A decoder that looks at one cell alone, and at where in a tile its px lie."""

    def __init__(self, slope: float = 0.0) -> None:
        self.slope, self.sizes = slope, list[tuple[int, int]]()

    def __call__(self, latents: Tensor) -> Tensor:
        self.sizes.append((latents.shape[-2], latents.shape[-1]))
        px = F.interpolate(latents[0, :, :3], scale_factor=STRIDE, mode="nearest")[None]
        return px + self.slope * torch.linspace(-1, 1, px.shape[-1])


@pytest.mark.parametrize(("height", "width"), [(8, 8), (9, 23), (21, 8), (30, 17)])
def test_tiles_give_what_the_frame_gives_where_a_decoder_sees_no_further(height: int, width: int):
    latents, decode = torch.randn(1, 2, 5, height, width), Enlarging()
    made = decode_tiled(decode, latents, tile=32, stride=STRIDE)
    torch.testing.assert_close(made, Enlarging()(latents), rtol=1e-5, atol=1e-5)
    assert all(size == (8, 8) for size in decode.sizes)
    assert len(decode.sizes) == (-(-(height - 8) // 6) + 1) * (-(-(width - 8) // 6) + 1)


def test_tiles_that_disagree_are_joined_without_a_step():
    """Each is brighter to its right: where two meet they differ by 2, from px to px the picture by less than 0.3."""
    made = decode_tiled(Enlarging(slope=1.0), torch.zeros(1, 1, 3, 8, 20), tile=32, stride=STRIDE)
    assert made.abs().max() <= 1 and made.diff(dim=-1).abs().max() < 0.3


def test_a_frame_of_one_tile_is_decoded_whole_to_the_bit():
    latents = torch.randn(1, 2, 3, 6, 8)
    assert torch.equal(decode_tiled(Enlarging(), latents, tile=32, stride=STRIDE), Enlarging()(latents))
    with pytest.raises(ValueError, match="tile=12 must be a multiple of 4 px, and at least 16"):
        decode_tiled(Enlarging(), latents, tile=12, stride=STRIDE)
