import pytest
import torch
from torch import Tensor, nn

from kernels.dispatch import fused_only, reference_only, using
from kernels.residual_norm import residual_norm

TOLERANCE = {torch.float32: 1e-5, torch.bfloat16: 2e-2}  # relative
SHAPE = (2, 3, 5, 36)  # batch, frames, patches, width: nothing is a power of two
EPS = 1e-6


def inputs(dtype: torch.dtype) -> tuple[Tensor, Tensor, tuple[Tensor, Tensor, Tensor]]:
    """Stream, branch, and gate, scale and shift as views of one tensor, as a block has them."""
    batch_size, frames, _, width = SHAPE
    per_frame = torch.randn(batch_size, frames, 6, width, dtype=dtype)[:, :, :, None].unbind(2)
    stream = 3 + torch.randn(SHAPE, dtype=dtype)  # a mean that is not zero, as a trained stream has
    return stream, torch.randn(SHAPE, dtype=dtype), (per_frame[1], per_frame[2], per_frame[5])


def oracle(x: Tensor, dtype: torch.dtype) -> Tensor:
    """LayerNorm in float64 of the stream as it is stored."""
    x = x.to(dtype).double()
    centred = x - x.mean(-1, keepdim=True)
    return centred / (centred.square().mean(-1, keepdim=True) + EPS).sqrt()


def check(made: tuple[Tensor, Tensor], stream: Tensor, h: Tensor, dtype: torch.dtype) -> None:
    tolerance = TOLERANCE[dtype]
    largest = tolerance * h.abs().max().item()  # shift and scaled norm may cancel
    assert made[0].dtype == made[1].dtype == dtype
    torch.testing.assert_close(made[0].double(), stream, rtol=tolerance, atol=tolerance)
    torch.testing.assert_close(made[1].double(), h, rtol=tolerance, atol=largest)


@pytest.mark.parametrize("policy", [reference_only, fused_only])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("gated", [True, False])
@torch.no_grad()
def test_modulated_site_is_the_formula_in_float64(policy: object, dtype: torch.dtype, gated: bool):
    x, y, (gate, scale, shift) = inputs(dtype)
    norm = nn.LayerNorm(SHAPE[-1], eps=EPS, elementwise_affine=False)
    with using(policy):
        made = residual_norm(x, y, gate if gated else None, norm, scale, shift)
    stream = x.double() + (gate.double() if gated else 1) * y.double()
    check(made, stream, oracle(stream, dtype) * (1 + scale.double()) + shift.double(), dtype)


@pytest.mark.parametrize("policy", [reference_only, fused_only])
@torch.no_grad()
def test_first_site_leaves_the_stream_alone(policy: object):
    x, _, (_, scale, shift) = inputs(torch.float32)
    norm = nn.LayerNorm(SHAPE[-1], eps=EPS, elementwise_affine=False)
    with using(policy):
        made = residual_norm(x, None, None, norm, scale, shift)
    assert made[0] is x
    check(made, x.double(), oracle(x, x.dtype) * (1 + scale.double()) + shift.double(), x.dtype)


@pytest.mark.parametrize("policy", [reference_only, fused_only])
@torch.no_grad()
def test_text_site_uses_the_norms_own_weights(policy: object):
    x, y, (gate, _, _) = inputs(torch.float32)
    norm = nn.LayerNorm(SHAPE[-1], eps=EPS)
    nn.init.normal_(norm.weight)
    nn.init.normal_(norm.bias)
    with using(policy):
        made = residual_norm(x, y, gate, norm, None, None)
    stream = x.double() + gate.double() * y.double()
    check(made, stream, oracle(stream, x.dtype) * norm.weight.double() + norm.bias.double(), x.dtype)
