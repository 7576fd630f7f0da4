"""K3: RMSNorm of the queries that look at a text, over all heads; K2 without rotation and ring."""

from jaxtyping import Float
from torch import Tensor, nn

from kernels.dispatch import choose, constexpr, kernel, power_of_two, tl

Tokens = Float[Tensor, "b l d"]


def rms_norm(x: Tokens, norm: nn.RMSNorm) -> Tokens:
    """norm(x). The kernel overwrites `x`: pass what nobody else reads.

    Source: Zhang and Sennrich 2019, arXiv:1910.07467, Eq. 4.
    """
    # A norm whose width is spread over several devices (`serve.parallel.tensor_parallel`) must ask them: no kernel can.
    fused = rms_norm_triton if type(norm) is nn.RMSNorm else rms_norm_reference
    return choose("rms_norm", x, rms_norm_reference, fused)(x, norm)


def rms_norm_reference(x: Tokens, norm: nn.RMSNorm) -> Tokens:
    return norm(x)


@kernel
def _rms_norm(x_ptr, weight_ptr, width, eps, BLOCK: constexpr):
    # One program per token; the sum of squares in float32.
    row, column = tl.program_id(0).to(tl.int64), tl.arange(0, BLOCK)
    inside = column < width
    x = tl.load(x_ptr + row * width + column, mask=inside, other=0.0).to(tl.float32)
    weight = tl.load(weight_ptr + column, mask=inside, other=0.0).to(tl.float32)
    x = x * tl.rsqrt(tl.sum(x * x, axis=0) / width + eps) * weight
    tl.store(x_ptr + row * width + column, x.to(x_ptr.dtype.element_ty), mask=inside)


def rms_norm_triton(x: Tokens, norm: nn.RMSNorm) -> Tokens:
    x, width = x.contiguous(), x.shape[-1]
    block = power_of_two(width)
    warps = max(1, min(8, block // 256))
    _rms_norm[(x.numel() // width,)](x, norm.weight, width, norm.eps, BLOCK=block, num_warps=warps)
    return x
