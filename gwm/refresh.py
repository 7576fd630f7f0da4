"""The past told anew. Keys and values carry the text under which they were made, so another text makes them again."""

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from gwm.cache import PastChunks
from gwm.chunks import ChunkPattern
from gwm.condition.inputs import Conditions
from gwm.dit import Denoiser


@dataclass(frozen=True)
class Told:
    """What a chunk's clean keys and values were made of. Voices and actions are those of its own frames: they stay."""

    number: int
    x0: Float[Tensor, "b f c h w"]
    condition: Conditions


@torch.no_grad()
def refreshed(
    model: Denoiser,
    chunks: Sequence[Told],
    *,
    pattern: ChunkPattern,
    horizon_frames: int,
    text: Float[Tensor, "b s t"],
    reference: Float[Tensor, "b 1 c h w"],
) -> PastChunks:
    """A stream's past as if `chunks`, all that it keeps, had been told `text`; made again one by one, oldest first.

    A chunk whose own past is forgotten by now is made again without it.
    Source: Yang et al. 2025 (LongLive), arXiv:2509.22622, Sec. 3.1 (KV recache).
    """
    again = PastChunks(pattern, horizon_frames)
    for chunk in chunks:
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
    return again
