"""K2: RMSNorm of queries and keys over all heads, rotation, and the new keys and values put into the ring."""

from typing import NamedTuple

from jaxtyping import Float, Int
from torch import Tensor, nn

from kernels.dispatch import choose
from kernels.language import constexpr, kernel, power_of_two, tl
from kernels.rotation import rotate_pairs

Tokens = Float[Tensor, "b l d"]
Heads = Float[Tensor, "b l n e"]


class Ring(NamedTuple):
    """Where one layer's new keys and values go: storage that stays where it is, and a slot for each new token."""

    k: Float[Tensor, "b s n e"]
    v: Float[Tensor, "b s n e"]
    slots: Int[Tensor, "l"]

    def store(self, k: Heads, v: Heads) -> None:
        """Put what is already rotated in place."""
        self.k.index_copy_(1, self.slots, k.to(self.k.dtype))
        self.v.index_copy_(1, self.slots, v.to(self.v.dtype))


def qk_norm_rope(
    q: Tokens,
    k: Tokens,
    v: Tokens,
    norm_q: nn.RMSNorm,
    norm_k: nn.RMSNorm,
    cos: Float[Tensor, "l e"],
    sin: Float[Tensor, "l e"],
    *,
    ring: Ring | None,
) -> tuple[Heads, Heads, Heads]:
    """Normalised, rotated queries and keys, and the values, by head; keys and values are also stored in `ring`.

    The kernel overwrites `q` and `k`: pass what nobody else reads.

    Source: Wan Team 2025, arXiv:2503.20314 (one RMSNorm over the whole width); Su et al. 2021, arXiv:2104.09864.
    """
    # A norm whose width is spread over several devices (`serve.parallel.tensor_parallel`) must ask them: no kernel can.
    whole = type(norm_q) is nn.RMSNorm
    fused = qk_norm_rope_triton if whole else qk_norm_rope_reference
    form = choose("qk_norm_rope", q, qk_norm_rope_reference, fused)
    return form(q, k, v, norm_q, norm_k, cos, sin, ring)


def qk_norm_rope_reference(
    q: Tokens,
    k: Tokens,
    v: Tokens,
    norm_q: nn.RMSNorm,
    norm_k: nn.RMSNorm,
    cos: Float[Tensor, "l e"],
    sin: Float[Tensor, "l e"],
    ring: Ring | None,
) -> tuple[Heads, Heads, Heads]:
    by_head = (-1, cos.shape[-1])
    queries = rotate_pairs(norm_q(q).unflatten(-1, by_head), cos, sin)
    keys = rotate_pairs(norm_k(k).unflatten(-1, by_head), cos, sin)
    values = v.unflatten(-1, by_head)
    if ring is not None:
        ring.store(keys, values)
    return queries, keys, values


@kernel
def _rotated(x_ptr, weight_ptr, pair, half, inside, cos, sin, width, eps):
    # Reads a row as [pairs, 2]; rounds after the norm and after the rotation, as the reference does.
    x = tl.load(x_ptr + 2 * pair + half, mask=inside, other=0.0).to(tl.float32)
    weight = tl.load(weight_ptr + 2 * pair + half, mask=inside, other=0.0).to(tl.float32)
    mean_square = tl.sum(tl.sum(x * x, axis=1), axis=0) / width
    x = (x * tl.rsqrt(mean_square + eps) * weight).to(x_ptr.dtype.element_ty).to(tl.float32)
    even, odd = tl.split(x)
    turned = tl.join(even * cos - odd * sin, odd * cos + even * sin)
    return turned.to(x_ptr.dtype.element_ty)


@kernel
def _qk_norm_rope(
    q_ptr,
    k_ptr,
    v_ptr,
    weight_q_ptr,
    weight_k_ptr,
    cos_ptr,
    sin_ptr,
    ring_k_ptr,
    ring_v_ptr,
    slots_ptr,
    q_stride,
    k_stride,
    v_stride,
    num_tokens,
    width,
    head_dim,
    total_tokens,
    eps,
    STORE: constexpr,
    PAIRS: constexpr,
):
    # One program per token, all heads: the norm needs the whole width.
    batch, token = tl.program_id(1).to(tl.int64), tl.program_id(0).to(tl.int64)
    row = batch * num_tokens + token
    index = tl.arange(0, PAIRS)
    pair, half = index[:, None], tl.arange(0, 2)[None, :]
    inside = (2 * pair + half) < width
    column = 2 * pair + half
    angle = token * head_dim + (2 * index) % head_dim  # the second of a pair holds the same value
    cos = tl.load(cos_ptr + angle)
    sin = tl.load(sin_ptr + angle)
    q_row, k_row = q_ptr + row * q_stride, k_ptr + row * k_stride
    q = _rotated(q_row, weight_q_ptr, pair, half, inside, cos, sin, width, eps)
    tl.store(q_row + column, q, mask=inside)
    k = _rotated(k_row, weight_k_ptr, pair, half, inside, cos, sin, width, eps)
    tl.store(k_row + column, k, mask=inside)
    if STORE:
        place = (batch * total_tokens + tl.load(slots_ptr + token)) * width + column
        v = tl.load(v_ptr + row * v_stride + column, mask=inside, other=0.0)
        tl.store(ring_k_ptr + place, k.to(ring_k_ptr.dtype.element_ty), mask=inside)
        tl.store(ring_v_ptr + place, v.to(ring_v_ptr.dtype.element_ty), mask=inside)


def qk_norm_rope_triton(
    q: Tokens,
    k: Tokens,
    v: Tokens,
    norm_q: nn.RMSNorm,
    norm_k: nn.RMSNorm,
    cos: Float[Tensor, "l e"],
    sin: Float[Tensor, "l e"],
    ring: Ring | None,
) -> tuple[Heads, Heads, Heads]:
    batch_size, num_tokens, width = q.shape
    q, k, v = (_rows(z) for z in (q, k, v))
    head_dim = cos.shape[-1]
    pairs = power_of_two(width // 2)
    into = Ring(q, q, q) if ring is None else ring  # not touched without a ring
    total_tokens = 0 if ring is None else ring.k.shape[1]
    _qk_norm_rope[(num_tokens, batch_size)](
        *(q, k, v, norm_q.weight, norm_k.weight, cos.contiguous(), sin.contiguous(), *into),
        *(q.stride(1), k.stride(1), v.stride(1), num_tokens, width, head_dim, total_tokens, norm_q.eps),
        STORE=ring is not None,
        PAIRS=pairs,
        num_warps=max(1, min(8, pairs // 128)),
    )
    queries, keys, values = (z.unflatten(-1, (-1, head_dim)) for z in (q, k, v))
    return queries, keys, values


def _rows(x: Tokens) -> Tokens:
    """As it is, if the tokens of the batch lie evenly behind each other, as in a part of a wider projection."""
    even = x.stride(-1) == 1 and (len(x) == 1 or x.stride(0) == x.shape[1] * x.stride(1))
    return x if even else x.contiguous()
