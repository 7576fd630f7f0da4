"""Inputs of the visible chunks, from which a new prompt has their keys and values computed again (recache)."""

import dataclasses

import torch
from jaxtyping import Float
from torch import Tensor

from gwm.cache import PastChunks
from gwm.condition.inputs import Conditions
from gwm.dit import DiT
from gwm.recache import ChunkInputs, recache
from gwm.rollout import Rollout


class History:
    """Latents and conditions of the visible chunks, and of `depth` more that `rewind` could bring back.

    It stays empty with a noisy context, whose keys and values cannot be computed again: their inputs are not kept.
    """

    def __init__(self, model: DiT, rollout: Rollout, depth: int) -> None:
        self.model, self.rollout = model, rollout
        pattern = rollout.contract.pattern
        self.max_chunks, self.sinks = pattern.window_chunks - 1 + depth, pattern.sink_chunks
        self.chunks: list[ChunkInputs] = []
        self.recached = 0
        self.text: Tensor | None = None  # under which all keys and values were computed; None: not all under one

    def clear(self) -> None:
        """A new stream."""
        self.chunks.clear()
        self.recached = 0  # number of the first chunk after the latest recache

    def append(self, latents: Float[Tensor, "1 f c _ _"], condition: Conditions) -> None:
        """The newest chunk."""
        if self.rollout.contract.context == "noisy":
            return
        self.text = condition.tokens.get("text")
        number = self.chunks[-1].number + 1 if self.chunks else 0
        self.chunks.append(ChunkInputs(number, latents.clone(), dataclasses.replace(condition, override={})))
        if len(self.chunks) > self.max_chunks:
            del self.chunks[self.sinks]

    def rewind(self, chunks: int) -> None:
        """Forget the latest `chunks`. Keys and values that they had overwritten are back; behind the latest recache,
        under the old prompt."""
        del self.chunks[len(self.chunks) - chunks :]
        behind = not self.chunks or self.chunks[-1].number < self.recached
        if behind and not all(_same(chunk.condition.tokens.get("text"), self.text) for chunk in self.chunks):
            self.text = None

    def set_prompt(self, text: Float[Tensor, "1 s t"]) -> None:
        """Recache the visible chunks under `text`, before the first chunk that is generated under it."""
        if not self.chunks or _same(text, self.text):
            return
        rollout, cache = self.rollout, self.rollout.cache
        seen = cache.pattern.kept(tuple(self.chunks))
        before = PastChunks(cache.pattern, cache.horizon_frames, num_committed=self.chunks[-1].number + 1)
        past = recache(self.model, before, seen, text=text, reference=rollout.reference)
        for chunk, keys_values in zip(seen, past.chunks, strict=True):
            cache.put(cache.pattern.chunk_start(chunk.number), keys_values)
        self.recached = self.chunks[-1].number + 1


def _same(text: Tensor | None, other: Tensor | None) -> bool:
    """Compares numbers, for which the host must wait, only where the tensors are not one and the same."""
    return text is other or (text is not None and other is not None and torch.equal(text, other))
