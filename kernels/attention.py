"""Self-attention between its projections: queries and keys normalised and rotated, new keys and values stored, then
attention over what is visible, by the fastest backend that this machine has."""

import logging
from functools import lru_cache
from importlib import import_module
from importlib.util import find_spec
from typing import Any, Literal, NamedTuple

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensor
from torch.nn.attention.flex_attention import flex_attention

from kernels.dispatch import choose, constexpr, kernel, power_of_two, tl
from kernels.frame_mask import FrameMask

log = logging.getLogger(__name__)

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


Backend = Literal["flash3", "flash2", "varlen", "sdpa"]
FrameBackend = Literal["flex", "sdpa"]
HALF = (torch.bfloat16, torch.float16)


class Prefix(NamedTuple):
    """The first `length` keys are visible, to all queries of the batch alike."""

    length: Int[Tensor, "1"]  # int32, on the device: the host never learns it
    bias: Float[Tensor, "1 s"]  # the same as 0 and -inf, for backends that take nothing else; PyTorch would make it of
    # a mask anew in every layer


Visible = Bool[Tensor, "l s"] | FrameMask | Prefix | None


def attention(
    q: Float[Tensor, "b l n e"], k: Float[Tensor, "b s n e"], v: Float[Tensor, "b s n e"], visible: Visible
) -> Float[Tensor, "b l n e"]:
    """Scaled dot-product attention to the keys that are `visible`: by a mask, a prefix, or all of them."""
    if isinstance(visible, Prefix):
        return _PREFIX[prefix_backend(q.device, q.dtype, len(q))](q, k, v, visible)
    if isinstance(visible, FrameMask):
        if isinstance(q, FakeTensor):  # a plan, of GPUs: FlexAttention keeps there what attention without a mask keeps
            return _sdpa(q, k, v, None)
        return flex_frames(q, k, v, visible) if frame_backend(q.device) == "flex" else sdpa_frames(q, k, v, visible)
    return _sdpa(q, k, v, visible)


def sdpa_frames(q: Tensor, k: Tensor, v: Tensor, visible: FrameMask) -> Tensor:
    """The definition: PyTorch's attention under the mask of all pairs of tokens."""
    return _sdpa(q, k, v, visible.dense)


def flex_frames(q: Tensor, k: Tensor, v: Tensor, visible: FrameMask) -> Tensor:
    """The same by FlexAttention, compiled on a GPU, where it never holds the scores; elsewhere it does, for tests.

    Source: Dong et al. 2024, arXiv:2412.05496.
    """
    q, k = q.to(v.dtype), k.to(v.dtype)  # what autocast does for PyTorch's attention
    q, k, v = (z.transpose(1, 2) for z in (q, k, v))
    return _flex(compiled=q.is_cuda)(q, k, v, block_mask=visible.blocks).transpose(1, 2)


@lru_cache
def frame_backend(device: torch.device) -> FrameBackend:
    """FlexAttention on GPUs, where Triton compiles it; the dense mask everywhere else; logged once."""
    chosen: FrameBackend = "flex" if device.type == "cuda" and find_spec("triton") is not None else "sdpa"
    log.info("attention of masked clips on %s: %s", device, chosen)
    return chosen


@lru_cache
def _flex(*, compiled: bool) -> Any:
    if not compiled:
        return flex_attention
    # It is compiled for each length, dtype and kind of mask. Past the limit, 8 by default, PyTorch would run it eagerly
    # and hold all scores, 26 GB at 480p; now, as fullgraph, it is an error.
    torch._dynamo.config.recompile_limit = 64
    return torch.compile(flex_attention, dynamic=False, fullgraph=True)


def sdpa_prefix(q: Tensor, k: Tensor, v: Tensor, visible: Prefix) -> Tensor:
    """The definition: PyTorch's attention under the prefix as a bias."""
    return _sdpa(q, k, v, visible.bias.to(q.dtype))


@lru_cache
def prefix_backend(device: torch.device, dtype: torch.dtype, batch_size: int) -> Backend:
    """How to attend to a prefix without a mask, which would keep PyTorch from its flash kernels; logged once."""
    chosen: Backend = "sdpa"
    if device.type == "cuda" and dtype in HALF:
        if _takes_cache("flash_attn_interface") and torch.cuda.get_device_capability(device)[0] == 9:
            chosen = "flash3"
        elif _takes_cache("flash_attn"):
            chosen = "flash2"
        elif batch_size == 1:
            chosen = "varlen"
    log.info("attention of batch %d in %s on %s: %s", batch_size, dtype, device, chosen)
    return chosen


def _takes_cache(package: str) -> bool:
    """Whether it is installed and has what is used of it: flash-attn-4 alone leaves a flash_attn that is empty."""
    return find_spec(package) is not None and hasattr(import_module(package), "flash_attn_with_kvcache")


def _sdpa(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None) -> Tensor:
    q, k, v = (z.transpose(1, 2) for z in (q, k, v))
    return F.scaled_dot_product_attention(q, k, v, attn_mask=mask).transpose(1, 2)


def _flash3(q: Tensor, k: Tensor, v: Tensor, visible: Prefix) -> Tensor:
    # num_splits=0: the library splits the keys where too few queries would fill the card.
    lengths = visible.length.expand(len(q)).contiguous()
    attend: Any = import_module("flash_attn_interface").flash_attn_with_kvcache
    return attend(q, k, v, cache_seqlens=lengths, num_splits=0)


def _flash2(q: Tensor, k: Tensor, v: Tensor, visible: Prefix) -> Tensor:
    lengths = visible.length.expand(len(q)).contiguous()
    attend: Any = import_module("flash_attn").flash_attn_with_kvcache
    return attend(q, k, v, cache_seqlens=lengths, num_splits=0)


def _varlen(q: Tensor, k: Tensor, v: Tensor, visible: Prefix) -> Tensor:
    # A batch of one: the boundary of the only sequence of keys is the prefix itself.
    attend: Any = import_module("torch.nn.attention.varlen").varlen_attn
    queries = torch.arange(0, q.shape[1] + 1, q.shape[1], device=q.device, dtype=torch.int32)
    keys = F.pad(visible.length, (1, 0))
    return attend(q[0], k[0], v[0], queries, keys, q.shape[1], k.shape[1])[None]


_PREFIX = {"flash3": _flash3, "flash2": _flash2, "varlen": _varlen, "sdpa": sdpa_prefix}


def rotate_pairs(
    x: Float[Tensor, "b l n e"], cos: Float[Tensor, "#l e"], sin: Float[Tensor, "#l e"]
) -> Float[Tensor, "b l n e"]:
    """Rotate interleaved pairs of channels, in float32 as in Wan 2.1; cosine and sine hold each value twice."""
    cos, sin = cos[:, None], sin[:, None]
    even, odd = x.float().unflatten(-1, (-1, 2)).unbind(-1)
    turned = torch.stack((-odd, even), dim=-1).flatten(-2)
    return (x.float() * cos + turned * sin).to(x.dtype)
