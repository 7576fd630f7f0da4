"""K4: the sinks' keys, rotated from their stored form once a chunk; no other keys ever move."""

import torch
from jaxtyping import Float, Int
from torch import Tensor

from kernels.attention import rotate_pairs
from kernels.dispatch import choose, constexpr, kernel, power_of_two, tl

Keys = Float[Tensor, "layers b s n e"]
Sinks = Float[Tensor, "layers b sinks n e"]
Turn = Float[Tensor, "1 e"]


def turn_sinks(keys: Keys, sink_keys: Sinks, cos: Turn, sin: Turn, written_tokens: Int[Tensor, ""]) -> None:
    """Write `sink_keys`, rotated, into the first slots of `keys`; only the first `written_tokens` of them.

    The others are still being generated: they are in `keys` and not yet in `sink_keys`.
    """
    form = choose("turn_sinks", keys, turn_sinks_reference, turn_sinks_triton)
    form(keys, sink_keys, cos, sin, written_tokens)


def turn_sinks_reference(keys: Keys, sink_keys: Sinks, cos: Turn, sin: Turn, written_tokens: Int[Tensor, ""]) -> None:
    sinks = sink_keys.shape[2]
    turned = rotate_pairs(sink_keys.flatten(0, 1), cos, sin).view_as(sink_keys)
    written = torch.arange(sinks, device=keys.device) < written_tokens
    keys[:, :, :sinks] = torch.where(written[None, None, :, None, None], turned, keys[:, :, :sinks])


@kernel
def _turn_sinks(
    keys_ptr, sink_ptr, cos_ptr, sin_ptr, written_ptr, sinks, total_tokens, width, head_dim, PAIRS: constexpr
):
    # One program per sink token and (layer, batch).
    token, outer = tl.program_id(0).to(tl.int64), tl.program_id(1).to(tl.int64)
    if token < tl.load(written_ptr):
        index = tl.arange(0, PAIRS)
        column = 2 * index[:, None] + tl.arange(0, 2)[None, :]
        inside = column < width
        cos = tl.load(cos_ptr + (2 * index) % head_dim)
        sin = tl.load(sin_ptr + (2 * index) % head_dim)
        x = tl.load(sink_ptr + (outer * sinks + token) * width + column, mask=inside, other=0.0).to(tl.float32)
        even, odd = tl.split(x)
        turned = tl.join(even * cos - odd * sin, odd * cos + even * sin).to(keys_ptr.dtype.element_ty)
        tl.store(keys_ptr + (outer * total_tokens + token) * width + column, turned, mask=inside)


def turn_sinks_triton(keys: Keys, sink_keys: Sinks, cos: Turn, sin: Turn, written_tokens: Int[Tensor, ""]) -> None:
    layers, batch_size, sinks, heads, head_dim = sink_keys.shape
    width = heads * head_dim
    _turn_sinks[(sinks, layers * batch_size)](
        *(keys, sink_keys, cos, sin, written_tokens, sinks, keys.shape[2], width, head_dim),
        PAIRS=power_of_two(width // 2),
        num_warps=4,
    )
