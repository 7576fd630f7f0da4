import pytest
import torch
from torch import nn

from kernels.dispatch import fused_only, reference_only, using
from kernels.rms_norm import rms_norm

WIDTH, EPS = 30, 1e-6  # not a power of two
TOLERANCE = {torch.float32: 1e-5, torch.bfloat16: 2e-2}  # of values about 1


@pytest.mark.parametrize("policy", [reference_only, fused_only])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@torch.no_grad()
def test_norm_is_the_formula_in_float64(policy: object, dtype: torch.dtype):
    x, norm = torch.randn(2, 5, WIDTH).to(dtype), nn.RMSNorm(WIDTH, eps=EPS, dtype=dtype)
    nn.init.normal_(norm.weight)
    exact = x.double()
    exact = exact / (exact.square().mean(-1, keepdim=True) + EPS).sqrt() * norm.weight.double()
    with using(policy):
        made = rms_norm(x.clone(), norm)
    torch.testing.assert_close(made.double(), exact, rtol=TOLERANCE[dtype], atol=2 * TOLERANCE[dtype])


@torch.no_grad()
def test_a_part_of_a_wider_projection_is_normalised_alone():
    x, norm = torch.randn(2, 5, 3 * WIDTH), nn.RMSNorm(WIDTH, eps=EPS)
    part = x[..., :WIDTH]
    expected = norm(part)
    with using(fused_only):
        torch.testing.assert_close(rms_norm(part, norm), expected, rtol=1e-5, atol=1e-5)
