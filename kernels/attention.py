"""Attention over what is visible, by the fastest backend that this machine has."""

import logging
from functools import lru_cache
from importlib import import_module
from importlib.util import find_spec
from typing import Any, Literal, NamedTuple

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensor
from torch.nn.attention.flex_attention import flex_attention

from kernels.frame_mask import FrameMask

log = logging.getLogger(__name__)

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
    return torch.compile(flex_attention, dynamic=False) if compiled else flex_attention


def sdpa_prefix(q: Tensor, k: Tensor, v: Tensor, visible: Prefix) -> Tensor:
    """The definition: PyTorch's attention under the prefix as a bias."""
    return _sdpa(q, k, v, visible.bias.to(q.dtype))


@lru_cache
def prefix_backend(device: torch.device, dtype: torch.dtype, batch_size: int) -> Backend:
    """How to attend to a prefix without a mask, which would keep PyTorch from its flash kernels; logged once."""
    chosen: Backend = "sdpa"
    if device.type == "cuda" and dtype in HALF:
        if find_spec("flash_attn_interface") is not None and torch.cuda.get_device_capability(device)[0] == 9:
            chosen = "flash3"
        elif find_spec("flash_attn") is not None:
            chosen = "flash2"
        elif batch_size == 1:
            chosen = "varlen"
    log.info("attention of batch %d in %s on %s: %s", batch_size, dtype, device, chosen)
    return chosen


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
