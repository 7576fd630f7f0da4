import pytest
import torch

from kernels.dispatch import fused_only, reference_only, using
from kernels.sink_rope import turn_sinks

LAYERS, BATCH, SINKS, TOTAL, HEADS, HEAD_DIM = 2, 2, 5, 11, 3, 10
FP32 = 1e-5


@pytest.mark.parametrize("policy", [reference_only, fused_only])
@pytest.mark.parametrize("written", [0, 3, 5, 40])
def test_written_sinks_are_turned_and_nothing_else_is_touched(policy: object, written: int):
    keys = torch.randn(LAYERS, BATCH, TOTAL, HEADS, HEAD_DIM)
    sinks, angle = torch.randn(LAYERS, BATCH, SINKS, HEADS, HEAD_DIM), torch.rand(HEAD_DIM // 2) * 6
    turn = [f(angle).repeat_interleave(2)[None] for f in (torch.cos, torch.sin)]
    before, count = keys.clone(), min(written, SINKS)
    with using(policy):
        turn_sinks(keys, sinks, *turn, torch.tensor(written))
    pairs = torch.view_as_complex(sinks.double().unflatten(-1, (-1, 2)))
    turned = torch.view_as_real(pairs * torch.polar(torch.ones(5).double(), angle.double())).flatten(-2)
    torch.testing.assert_close(keys[:, :, :count].double(), turned[:, :, :count], rtol=FP32, atol=FP32)
    assert torch.equal(keys[:, :, count:], before[:, :, count:])
