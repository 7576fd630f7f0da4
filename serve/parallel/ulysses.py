"""Ulysses: each process has a strip of the picture outside of attention, and some of the heads inside of it.

A layer exchanges twice, and the cache is divided by the number of processes: each keeps all tokens of its own heads.

Source: Jacobs et al. 2023, arXiv:2309.14509 (DeepSpeed-Ulysses), with strips of rows instead of parts of a sequence.
"""

import copy
import dataclasses
from typing import Any

import torch
import torch.distributed as dist
from einops import rearrange
from jaxtyping import Float
from torch import Tensor, nn

from gwm.block import Context, DiTBlock, KeysValues, SelfAttention, attend
from gwm.cache import RingCache
from gwm.condition.inputs import Conditions
from gwm.config import DiTConfig
from gwm.contract import Contract
from gwm.dit import DiT
from gwm.rollout import Emit, Rollout, keep
from gwm.rope import Rotation
from kernels.attention import qk_norm_rope
from serve.parallel.ranks import Ranks, local_cache


class UlyssesAttention(nn.Module):
    """The self-attention of a strip's tokens to all tokens; weights are the given layer's."""

    def __init__(self, whole: SelfAttention, ranks: Ranks, *, patches: int) -> None:
        """patches: tokens per latent frame of a strip."""
        super().__init__()
        self.whole, self.ranks, self.patches = whole, ranks, patches

    def forward(
        self, x: Float[Tensor, "b l d"], rotation: Rotation, context: Context
    ) -> tuple[Float[Tensor, "b l d"], KeysValues]:
        whole = self.whole
        strip = qk_norm_rope(*whole.project(x), whole.norm_q, whole.norm_k, *rotation, ring=None)
        q, k, v = self._own_heads(torch.stack(strip))
        ring = context.ring(whole.layer)
        if ring is not None:
            ring.store(k, v)
        keys, values, visible = context.visible(whole.layer, k, v)
        y = attend(q, keys, values, visible).unflatten(-1, (-1, q.shape[-1]))
        return whole.o(self._own_tokens(y)), strip[1:]

    def _own_heads(self, x: Float[Tensor, "s b l n e"]) -> Float[Tensor, "s b _ _ e"]:
        """All heads of the strip's tokens to the own heads of all tokens."""
        parts = rearrange(x, "s b (f p) (r n) e -> r s b f p n e", p=self.patches, r=self.ranks.size)
        return rearrange(exchange(parts), "r s b f p n e -> s b (f r p) n e")

    def _own_tokens(self, y: Float[Tensor, "b l n e"]) -> Float[Tensor, "b _ d"]:
        parts = rearrange(y, "b (f r p) n e -> r b f p n e", p=self.patches, r=self.ranks.size)
        return rearrange(exchange(parts), "r b f p n e -> b (f p) (r n e)")


def exchange(parts: Float[Tensor, "r *_"]) -> Float[Tensor, "r *_"]:
    """Send part i to process i; part i of the result is what process i had for this one."""
    parts = parts.contiguous()  # first: storage of the same shape would else have the same foreign strides
    got = torch.empty_like(parts)
    dist.all_to_all_single(got, parts)
    return got


class StripRollout(Rollout):
    """A rollout of which this process computes a strip of rows; what it emits and returns is the whole picture."""

    def __init__(self, model: DiT, contract: Contract, ranks: Ranks, *, batch_size: int = 1) -> None:
        """A stream whose rows and heads are divided by the number of processes.

        Raises:
            ValueError: they cannot be.
        """
        rows, columns = contract.latent_grid
        check_rows(contract, ranks.size)
        self.ranks, strip = ranks, rows // ranks.size

        def cache(config: DiTConfig, pattern: Any, *, patches: int, **rest: Any) -> RingCache:
            return local_cache(ranks)(config, pattern, patches=patches * ranks.size, **rest)

        patches = (strip // contract.dit.patch) * (columns // contract.dit.patch)
        split = split_heads(model, ranks, patches=patches)
        split.first_row = ranks.rank * strip // contract.dit.patch
        super().__init__(split, contract, batch_size=batch_size, grid=(strip, columns), cache=cache)
        self.picture_shape = (*self.chunk_shape[:3], rows, columns)

    def own(self, x: Float[Tensor, "b f c h w"]) -> Float[Tensor, "b f c _ w"]:
        return x.chunk(self.ranks.size, dim=-2)[self.ranks.rank]

    def velocity(
        self, x: Float[Tensor, "b f c _ w"], sigma: float, condition: Conditions
    ) -> Float[Tensor, "b f c _ w"]:
        channels = {name: self.own(planes) for name, planes in condition.channels.items()}
        return super().velocity(x, sigma, dataclasses.replace(condition, channels=channels))

    @torch.no_grad()
    def generate(self, noises: Any, condition: Any, emit: Emit = keep) -> Float[Tensor, "b f c h w"]:
        made = []

        def gathered(strip: Tensor) -> None:
            made.append(self.ranks.rows(strip))
            emit(made[0])

        super().generate(noises, condition, gathered)
        return made[0]


def split_heads(model: DiT, ranks: Ranks, *, patches: int) -> DiT:
    """The same weights, not copied, with an attention that exchanges heads for tokens."""
    split = copy.deepcopy(model, {id(tensor): tensor for tensor in (*model.parameters(), *model.buffers())})
    for block in split.blocks:
        assert isinstance(block, DiTBlock)
        block.register_module("attention", UlyssesAttention(block.attention, ranks, patches=patches))
    return split


def check_rows(contract: Contract, size: int) -> None:
    """
    Raises:
        ValueError: the rows do not divide.
    """
    rows, patch = contract.latent_grid[0], contract.dit.patch
    if rows % (size * patch):
        raise ValueError(
            f"{rows // patch} rows of patches must be a multiple of the {size} processes: each has as many. Take "
            "another number of processes, or parallel=tensor, which divides heads alone."
        )
