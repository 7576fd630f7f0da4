import pytest
import torch
import torch.nn.functional as F

from kernels.causal_input import causal_input
from kernels.dispatch import fused_only, reference_only, using

BATCH, HEIGHT, WIDTH, CHANNELS, EPS = 2, 2, 3, 6, 1e-6
FP32 = 1e-5
POLICIES = pytest.mark.parametrize("policy", [reference_only, fused_only])


def activated(x: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
    """SiLU(RMSNorm(x) weight) in float64."""
    x = x.double()
    y = x / (x.square().mean(-1, keepdim=True) + EPS).sqrt() * weight.double()
    return y / (1 + torch.exp(-y))


@POLICIES
@pytest.mark.parametrize("chunk", [1, 3])
@pytest.mark.parametrize("past", [0, 2])
def test_buffer_holds_the_past_and_then_the_new_frames(policy: object, chunk: int, past: int):
    """Also where the chunk is shorter than what is remembered, so that the buffer moves within itself."""
    clip, weight = torch.randn(BATCH, 3 * chunk, HEIGHT, WIDTH, CHANNELS), torch.randn(CHANNELS)
    buffer = torch.zeros(BATCH, past + chunk, HEIGHT, WIDTH, CHANNELS)
    whole = torch.cat([torch.zeros(BATCH, past, HEIGHT, WIDTH, CHANNELS), activated(clip, weight)], dim=1)
    for start in range(0, 3 * chunk, chunk):
        with using(policy):
            made = causal_input(clip[:, start : start + chunk], weight, buffer, eps=EPS)
        assert made is buffer
        torch.testing.assert_close(buffer.double(), whole[:, start : start + past + chunk], rtol=FP32, atol=FP32)


@POLICIES
def test_convolving_the_buffer_chunk_by_chunk_is_convolving_the_clip(policy: object):
    clip, weight = torch.randn(BATCH, 6, HEIGHT, WIDTH, CHANNELS), torch.randn(CHANNELS)
    filters = torch.randn(4, CHANNELS, 3, 3, 3)
    padded = F.pad(activated(clip, weight).float().movedim(-1, 1), (1, 1, 1, 1, 2, 0))
    expected = F.conv3d(padded, filters)
    buffer, parts = torch.zeros(BATCH, 2 + 2, HEIGHT, WIDTH, CHANNELS), []
    for start in (0, 2, 4):
        with using(policy):
            causal_input(clip[:, start : start + 2], weight, buffer, eps=EPS)
        parts.append(F.conv3d(buffer.movedim(-1, 1), filters, padding=(0, 1, 1)))
    torch.testing.assert_close(torch.cat(parts, dim=2), expected, rtol=1e-4, atol=1e-4)


def test_a_buffer_that_cannot_move_in_place_is_an_error():
    buffer = torch.zeros(BATCH, HEIGHT, WIDTH, CHANNELS, 3).movedim(-1, 1)
    with using(fused_only), pytest.raises(ValueError, match="must be contiguous"):
        causal_input(torch.zeros(BATCH, 1, HEIGHT, WIDTH, CHANNELS), torch.ones(CHANNELS), buffer, eps=EPS)
