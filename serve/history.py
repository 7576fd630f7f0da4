"""What a stream keeps of its past beside the cache: inputs of the visible chunks, from which a new prompt has their
keys and values computed again (recache), and what the latest chunks overwrote, so that they can be taken back."""

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


class UndoLog:
    """What `depth` chunks changed in cache and decoder (its `moving` memory), in storage that is allocated once.

    A ring has no empty slots to put them in: valid slots must stay a prefix. Copying aside what a chunk overwrites
    costs as much as the chunk's own keys and values: 0.8 MB with the decoder's memory and 0.06 ms of an 81 ms chunk of
    the shipped character (one core of a busy EPYC, 2026-11-29).
    """

    def __init__(self, rollout: Rollout, moving: tuple[Tensor, ...], depth: int) -> None:
        self.rollout, self.moving, self.depth = rollout, moving, depth
        cache, self.chunk_frames = rollout.cache, rollout.contract.pattern.chunk_frames
        layers, batch_size, _, heads, head_dim = cache.k.shape
        shape = (2, depth, layers, batch_size, self.chunk_frames * cache.patches, heads, head_dim)
        self.evicted = torch.empty(shape, device=cache.k.device, dtype=cache.k.dtype)
        self.decoded = tuple(part.new_empty(depth, *part.shape) for part in moving)
        self.clear()

    def clear(self) -> None:
        """A new stream: nothing of the old one can be taken back."""
        self.num_kept = self.num_chunks = 0  # chunks that can be taken back; chunks since the start
        self.num_decoded = 0  # of these: the decoder may be one behind

    def keep_decoder(self) -> None:
        """Copy aside what the decoder remembers before the next chunk."""
        if self.depth:
            for kept, part in zip(self.decoded, self.moving, strict=True):
                kept[self.num_decoded % self.depth].copy_(part)
            self.num_decoded += 1

    def keep_keys(self) -> None:
        """Copy aside what the next chunk will overwrite; call before its first step."""
        if self.depth:
            cache, place = self.rollout.cache, self.num_chunks % self.depth
            for kept, storage in zip(self.evicted[:, place], (cache.k, cache.v), strict=True):
                torch.index_select(storage, 2, cache.slots(self.chunk_frames), out=kept)
            self.num_chunks += 1
            self.num_kept = min(self.num_kept + 1, self.depth)

    def check(self, chunks: int) -> None:
        """Refuse to go further back than what is kept.

        Raises:
            ValueError: that many chunks are not kept.
        """
        if not 0 <= chunks <= self.num_kept:
            raise ValueError(
                f"chunks={chunks} must be in [0, {self.num_kept}]: the engine keeps undo_chunks={self.depth}, and "
                "nothing from before the latest start."
            )

    def rewind_latents(self, chunks: int) -> None:
        """Put the rollout back by `chunks`, that is its counters and what they had overwritten."""
        cache = self.rollout.cache
        for _ in range(chunks):
            self.num_chunks -= 1
            self.num_kept -= 1
            self.rollout.frame -= self.chunk_frames
            cache.frame.sub_(self.chunk_frames)
            kept = self.evicted[:, self.num_chunks % self.depth]
            for storage, old in zip((cache.k, cache.v), kept, strict=True):
                storage.index_copy_(2, cache.slots(self.chunk_frames), old)

    def rewind_decoder(self, chunks: int) -> None:
        """Put the decoder back by `chunks`."""
        if chunks:
            self.num_decoded -= chunks
            for kept, part in zip(self.decoded, self.moving, strict=True):
                part.copy_(kept[self.num_decoded % self.depth])
