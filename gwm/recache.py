"""Recache: keys and values of a stream's past depend on its prompt, so a new prompt has them computed again."""

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from gwm.cache import PastChunks
from gwm.condition.inputs import Conditions
from gwm.dit import Denoiser


@dataclass(frozen=True)
class ChunkInputs:
    """What the clean keys and values of a stream's chunk `number` (0: its first) were computed from."""

    number: int
    x0: Float[Tensor, "b f c h w"]
    condition: Conditions


@torch.no_grad()
def recache(
    model: Denoiser,
    past: PastChunks,
    inputs: Sequence[ChunkInputs],
    *,
    text: Float[Tensor, "b s t"],
    reference: Float[Tensor, "b 1 c h w"],
) -> PastChunks:
    """`past` at the same position, its keys and values computed again under `text`, oldest chunk first.

    inputs: of all chunks that `past` keeps. Voices and actions belong to a chunk's own frames and stay. A chunk is
    computed without those before it that are forgotten by now.
    Source: Yang et al. 2025 (LongLive), arXiv:2509.22622, Sec. 3.1 (KV recache).
    """
    pattern, again = past.pattern, dataclasses.replace(past, chunks=())
    for chunk in inputs:
        again = dataclasses.replace(again, num_committed=chunk.number)
        start, x0 = pattern.chunk_start(chunk.number), chunk.x0
        prediction = model(
            x0,
            x0.new_zeros(x0.shape[:2]),
            chunk.condition.with_tokens(text=text),
            positions=torch.arange(start, start + x0.shape[1], device=x0.device),
            context=again,
            reference=reference,
        )
        again = again.commit(prediction.keys_values)
    return dataclasses.replace(again, num_committed=past.num_committed)
