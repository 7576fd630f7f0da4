"""K1: gated residual, LayerNorm and modulation in one pass over memory; one operation for the sites of a block."""

import torch
from jaxtyping import Float
from torch import Tensor, nn

from kernels.dispatch import choose, constexpr, kernel, power_of_two, tl

Rows = Float[Tensor, "b f p d"]
PerFrame = Float[Tensor, "b f 1 d"]
Both = tuple[Rows, Rows]


def residual_norm(
    x: Rows, y: Rows | None, gate: PerFrame | None, norm: nn.LayerNorm, scale: PerFrame | None, shift: PerFrame | None
) -> Both:
    """The residual stream x + gate y, and what the next layer reads of it: norm(.) (1 + scale) + shift.

    Without `y` the stream is `x` itself, without `gate` the gate is 1; a norm with weights of its own takes neither
    scale nor shift.

    Source: Peebles and Xie 2023, arXiv:2212.09748, Sec. 3.2 (adaLN).
    """
    form = choose("residual_norm", x, residual_norm_reference, residual_norm_triton)
    return form(x, y, gate, norm, scale, shift)


def residual_norm_reference(
    x: Rows, y: Rows | None, gate: PerFrame | None, norm: nn.LayerNorm, scale: PerFrame | None, shift: PerFrame | None
) -> Both:
    if y is not None:
        x = x + y if gate is None else x + gate * y
    h = norm(x)
    return x, h if scale is None or shift is None else h * (1 + scale) + shift


@kernel
def _residual_norm(
    x_ptr,
    y_ptr,
    gate_ptr,
    scale_ptr,
    shift_ptr,
    stream_ptr,
    out_ptr,
    gate_stride,
    scale_stride,
    shift_stride,
    patches,
    width,
    one,
    eps,
    HAS_Y: constexpr,
    HAS_GATE: constexpr,
    BLOCK: constexpr,
):
    # One program per token: a row of `width` contiguous values, read once; statistics in float32.
    row = tl.program_id(0).to(tl.int64)
    frame = row // patches
    column = tl.arange(0, BLOCK)
    inside = column < width
    x = tl.load(x_ptr + row * width + column, mask=inside, other=0.0).to(tl.float32)
    if HAS_Y:
        y = tl.load(y_ptr + row * width + column, mask=inside, other=0.0).to(tl.float32)
        if HAS_GATE:
            y = y * tl.load(gate_ptr + frame * gate_stride + column, mask=inside, other=0.0).to(tl.float32)
        # Rounded as it is stored: the norm sees what the next block will read.
        x = (x + y).to(stream_ptr.dtype.element_ty)
        tl.store(stream_ptr + row * width + column, x, mask=inside)
        x = x.to(tl.float32)
    mean = tl.sum(x, axis=0) / width
    centred = tl.where(inside, x - mean, 0.0)
    deviation = tl.sqrt(tl.sum(centred * centred, axis=0) / width + eps)
    scale = tl.load(scale_ptr + frame * scale_stride + column, mask=inside, other=0.0).to(tl.float32)
    shift = tl.load(shift_ptr + frame * shift_stride + column, mask=inside, other=0.0).to(tl.float32)
    h = centred / deviation * (one + scale) + shift
    tl.store(out_ptr + row * width + column, h.to(out_ptr.dtype.element_ty), mask=inside)


def residual_norm_triton(
    x: Rows, y: Rows | None, gate: PerFrame | None, norm: nn.LayerNorm, scale: PerFrame | None, shift: PerFrame | None
) -> Both:
    if scale is not None and shift is not None:
        scales, shifts, one = scale.flatten(0, 2), shift.flatten(0, 2), 1.0
        strides = scales.stride(0), shifts.stride(0)
    else:  # the same row for every frame
        scales, shifts, one, strides = norm.weight, norm.bias, 0.0, (0, 0)
    x = x.contiguous()
    added = x if y is None else y.contiguous()
    gates = scales if gate is None else gate.flatten(0, 2)  # never read without a gate
    stream, out = x if y is None else torch.empty_like(x), torch.empty_like(x)
    patches, width = x.shape[-2:]
    block = power_of_two(width)
    _residual_norm[(x.numel() // width,)](
        *(x, added, gates, scales, shifts, stream, out),
        *(gates.stride(0), *strides, patches, width, one, norm.eps),
        HAS_Y=y is not None,
        HAS_GATE=gate is not None,
        BLOCK=block,
        num_warps=max(1, min(8, block // 256)),
    )
    return stream, out
