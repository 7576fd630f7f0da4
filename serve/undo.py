"""What the latest chunks overwrote, so that they can be taken back."""

from collections import deque

import torch
from jaxtyping import Float
from torch import Tensor

from gwm.rollout import Rollout

VAEState = tuple[Tensor, ...]


class UndoLog:
    """Storage for `depth` chunks of evicted keys and values, allocated once, and references to what else changes.

    A ring has no empty slots to put them in: valid slots must stay a prefix. Copying aside what a chunk overwrites
    costs as much as the chunk's own keys and values.
    """

    def __init__(self, rollout: Rollout, depth: int) -> None:
        self.rollout, self.depth = rollout, depth
        cache, self.chunk_frames = rollout.cache, rollout.contract.pattern.chunk_frames
        layers, batch_size, _, heads, head_dim = cache.k.shape
        shape = (2, depth, layers, batch_size, self.chunk_frames * cache.patches, heads, head_dim)
        self.evicted = torch.empty(shape, device=cache.k.device, dtype=cache.k.dtype)
        self.num_kept = self.num_chunks = 0  # chunks that can be taken back; chunks since the start
        self.sound: deque[Float[Tensor, "2 t"]] = deque(maxlen=depth)
        self.decoder: deque[VAEState | None] = deque(maxlen=depth)

    def clear(self) -> None:
        """A new stream: nothing of the old one can be taken back."""
        self.num_kept = self.num_chunks = 0
        self.sound.clear()
        self.decoder.clear()

    def keep_sound(self, samples: Float[Tensor, "2 t"]) -> None:
        """The sound that leaves the engine with the next chunk."""
        self.sound.append(samples)

    def keep_decoder(self, state: VAEState | None) -> None:
        """The decoder's state before the next chunk."""
        self.decoder.append(state)

    def keep_keys(self) -> None:
        """Copy aside what the next chunk will overwrite; call before its first step."""
        if self.depth:
            cache, place = self.rollout.cache, self.num_chunks % self.depth
            for kept, storage in zip(self.evicted[:, place], (cache.k, cache.v), strict=True):
                kept.copy_(storage.index_select(2, cache.slots(self.chunk_frames)))
            self.num_chunks += 1
            self.num_kept = min(self.num_kept + 1, self.depth)

    def check(self, chunks: int) -> None:
        """Raises:
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

    def rewind_ends(self, chunks: int, state: VAEState | None) -> tuple[list[Float[Tensor, "2 t"]], VAEState | None]:
        """What went in and out with the latest `chunks`: their sound, oldest first, and the decoder's state before.

        state: the decoder's as it is, returned for 0 chunks.
        """
        sound: deque[Float[Tensor, "2 t"]] = deque()
        for _ in range(chunks):
            sound.appendleft(self.sound.pop())
            state = self.decoder.pop()
        return list(sound), state
