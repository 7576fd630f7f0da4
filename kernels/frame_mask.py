"""Visibility between the frames of a clip, for attention between their tokens: as a dense mask or as blocks."""

from dataclasses import dataclass
from functools import cached_property

import torch
import torch.nn.functional as F
from jaxtyping import Bool
from torch import Tensor
from torch.nn.attention.flex_attention import BlockMask

BLOCK_TOKENS = 128  # of queries, and of keys, that FlexAttention's kernels take at once


@dataclass(frozen=True, eq=False)
class FrameMask:
    """A token sees another where the frame of the one sees the frame of the other. Both forms are made once, when first
    asked for, and kept for all layers."""

    frames: Bool[Tensor, "f g"]  # rows are frames of queries, columns of keys
    patches: int  # tokens per frame

    @cached_property
    def dense(self) -> Bool[Tensor, "l m"]:
        """The definition, token by token."""
        return self.frames.repeat_interleave(self.patches, 0).repeat_interleave(self.patches, 1)

    @cached_property
    def blocks(self) -> BlockMask:
        """The same for FlexAttention, which passes over blocks where nothing is visible and looks up pairs of tokens
        only in those that are visible in part.

        Counted on frames: the table of tokens would take 4 GB for a teacher-forced clip of Wan 2.1 at 480p.
        """
        num_queries, num_keys = (count * self.patches for count in self.frames.shape)
        rows, columns = (_spans(count, self.patches, self.frames.device) for count in (num_queries, num_keys))
        summed = F.pad(self.frames.int().cumsum(0).cumsum(1), (1, 0, 1, 0))  # visible pairs above and left of a corner
        below = summed[rows.last][:, columns.last] - summed[rows.last][:, columns.first]
        seen = below - summed[rows.first][:, columns.last] + summed[rows.first][:, columns.first]
        area = (rows.last - rows.first)[:, None] * (columns.last - columns.first)
        full = (seen == area) & rows.whole[:, None] & columns.whole
        frames, patches = self.frames, self.patches
        return BlockMask.from_kv_blocks(
            *_ordered((seen > 0) & ~full),
            *_ordered(full),
            BLOCK_SIZE=BLOCK_TOKENS,
            # Compiled into the kernel. A lambda, as the tests' hook wraps functions, which cannot be compiled then.
            mask_mod=lambda batch, head, query, key: frames[query // patches, key // patches],
            seq_lengths=(num_queries, num_keys),
        )


@dataclass(frozen=True)
class _Spans:
    """Frames that blocks of tokens touch."""

    first: Tensor
    last: Tensor  # one past it
    whole: Tensor  # whether the sequence does not end inside the block


def _spans(num_tokens: int, patches: int, device: torch.device) -> _Spans:
    start = torch.arange(0, num_tokens, BLOCK_TOKENS, device=device)
    end = start + BLOCK_TOKENS
    return _Spans(start // patches, (end.clamp(max=num_tokens) - 1) // patches + 1, end <= num_tokens)


def _ordered(chosen: Bool[Tensor, "i j"]) -> tuple[Tensor, Tensor]:
    """How many blocks of each row are chosen, and which, these first; for one batch and one head."""
    order = chosen.int().argsort(dim=1, descending=True, stable=True)
    return chosen.sum(1, dtype=torch.int32)[None, None], order.int()[None, None]
