"""Tensor parallelism: each process has some of the heads and of the inner width, and all tokens.

Wan normalises queries and keys over all heads together, so the processes also sum the squares of their parts.

Source: Shoeybi et al. 2019, arXiv:1909.08053, Sec. 3 (columns, then rows, then one sum).
"""

import copy

import torch
from jaxtyping import Float
from torch import Tensor, nn

from gwm.block import CrossAttention, DiTBlock, SelfAttention
from gwm.config import DiTConfig
from gwm.contract import Contract
from gwm.dit import DiT
from gwm.rollout import Rollout
from serve.parallel.ranks import Ranks, local_cache, local_config


class SummedLinear(nn.Module):
    """A linear layer of whose inputs each process has a part."""

    def __init__(self, whole: nn.Linear, ranks: Ranks) -> None:
        super().__init__()
        self.ranks, self.bias = ranks, whole.bias
        self.weight = nn.Parameter(_part(whole.weight, ranks, dim=1), requires_grad=False)

    def forward(self, x: Float[Tensor, "*b k"]) -> Float[Tensor, "*b d"]:
        return self.ranks.sum(x @ self.weight.T) + self.bias


class SpreadRMSNorm(nn.RMSNorm):
    """RMSNorm over a width of which each process has a part."""

    def __init__(self, whole: nn.RMSNorm, ranks: Ranks) -> None:
        part = _part(whole.weight, ranks, dim=0)
        assert whole.eps is not None
        super().__init__(len(part), eps=whole.eps, device=part.device, dtype=part.dtype)
        self.epsilon = whole.eps
        self.weight, self.ranks, self.width = nn.Parameter(part, requires_grad=False), ranks, len(whole.weight)

    def forward(self, x: Float[Tensor, "*b k"]) -> Float[Tensor, "*b k"]:
        squares = self.ranks.sum(x.float().square().sum(-1, keepdim=True))
        return (x.float() * torch.rsqrt(squares / self.width + self.epsilon) * self.weight.float()).to(x.dtype)


def split_weights(model: DiT, ranks: Ranks) -> DiT:
    """This process's part of the blocks, copied; what is outside of them is shared with `model`.

    Raises:
        ValueError: heads or inner width do not divide.
    """
    local_config(model.config, ranks.size)
    check_width(model.config, ranks.size)
    split = copy.deepcopy(model, {id(tensor): tensor for tensor in (*model.parameters(), *model.buffers())})
    for block in split.blocks:
        assert isinstance(block, DiTBlock)
        _split_attention(block.attention, ranks)
        if block.text_attention is not None:
            _split_attention(block.text_attention, ranks)
        first, activation, last = block.ffn
        assert isinstance(first, nn.Linear) and isinstance(last, nn.Linear)
        block.ffn = nn.Sequential(_columns(first, ranks), activation, SummedLinear(last, ranks))
    return split


def tensor_rollout(model: DiT, contract: Contract, ranks: Ranks) -> Rollout:
    """A rollout of which this process computes some of the heads."""
    return Rollout(split_weights(model, ranks), contract, cache=local_cache(ranks))


def check_width(dit: DiTConfig, size: int) -> None:
    """
    Raises:
        ValueError: the inner width does not divide.
    """
    if dit.ffn_dim % size:
        raise ValueError(f"ffn_dim={dit.ffn_dim} must be a multiple of the {size} processes.")


def _split_attention(attention: SelfAttention | CrossAttention, ranks: Ranks) -> None:
    attention.q, attention.k, attention.v = (_columns(x, ranks) for x in (attention.q, attention.k, attention.v))
    attention.norm_q, attention.norm_k = (SpreadRMSNorm(x, ranks) for x in (attention.norm_q, attention.norm_k))
    attention.register_module("o", SummedLinear(attention.o, ranks))
    attention.num_heads //= ranks.size
    if isinstance(attention, SelfAttention):
        attention.packed = None  # of the whole weights


def _columns(whole: nn.Linear, ranks: Ranks) -> nn.Linear:
    """A linear layer with a part of the outputs."""
    made = nn.Linear(whole.in_features, whole.out_features // ranks.size, device="meta")
    made.weight = nn.Parameter(_part(whole.weight, ranks, dim=0), requires_grad=False)
    made.bias = nn.Parameter(_part(whole.bias, ranks, dim=0), requires_grad=False)
    return made


def _part(x: Tensor, ranks: Ranks, *, dim: int) -> Tensor:
    return x.detach().chunk(ranks.size, dim=dim)[ranks.rank].clone()
