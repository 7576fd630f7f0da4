"""Caches of other engines, re-implemented for comparison: the same pictures as from the ring, at another price.

All keep a flat window: sinks, then the latest frames in order; the host knows how many are valid. Sinks stay where
they are, so they agree with the ring up to the horizon.
"""

import torch
from torch import Tensor

from gwm.cache import RingCache
from gwm.rope import Rotation, rotation
from kernels.attention import rotate_pairs

Window = tuple[Tensor, Tensor, None]


class FlatCache(RingCache):
    """Storage of the ring, filled in order; `start` is the slot of the current chunk, `begin` its latent frame."""

    start = begin = 0

    def reset(self) -> None:
        super().reset()
        self.start = self.begin = 0

    def ring(self, layer: int) -> None:  # type: ignore[override]  # the fused store is the ring's
        return None

    def follow(self, num_frames: int) -> None:
        """Make room for the next chunk."""

    def advance(self, num_frames: int) -> None:
        self.start += num_frames * self.patches
        self.begin += num_frames
        self.frame.add_(num_frames)

    def evicted(self, num_tokens: int) -> int:
        """Tokens that must go before `num_tokens` fit."""
        return max(0, self.start + num_tokens - self.k.shape[2])


class RollCache(FlatCache):
    """Once a chunk, the window moves left through a clone.

    Source: Huang et al. 2025, arXiv:2506.08009; also the static caches of SGLang and FastVideo.
    """

    def follow(self, num_frames: int) -> None:
        gone, sinks = self.evicted(num_frames * self.patches), self.sink_k.shape[2]
        if gone:
            for storage in (self.k, self.v):
                storage[:, :, sinks : self.start - gone] = storage[:, :, sinks + gone : self.start].clone()
            self.start -= gone

    def visible(self, layer: int, k: Tensor, v: Tensor) -> Window:  # type: ignore[override]
        end = self.start + k.shape[1]
        self.k[layer, :, self.start : end], self.v[layer, :, self.start : end] = k, v
        return self.k[layer, :, :end], self.v[layer, :, :end], None


class ConcatenateCache(RollCache):
    """Every layer and step clones the cache, writes into the clone and puts sinks and window together anew.

    Source: Yang et al. 2025, LongLive, arXiv:2509.22622 (its cache functions; Scope's are the same).
    """

    def visible(self, layer: int, k: Tensor, v: Tensor) -> Window:  # type: ignore[override]
        end, sinks = self.start + k.shape[1], min(self.sink_k.shape[2], self.start)
        made = []
        for storage, new in ((self.k, k), (self.v, v)):
            storage[layer, :, self.start : end] = new
            copy = storage[layer].clone()
            made.append(torch.cat([copy[:, :sinks], copy[:, sinks:end]], dim=1))
        return made[0], made[1], None


class RotateAllCache(RollCache):
    """Keys are kept without their frame's rotation, and every layer and step rotates the whole window.

    Source: LongLive's relative positions (arXiv:2509.22622, `use_relative_rope`); also FastVideo and FlashDreams.
    """

    def visible(self, layer: int, k: Tensor, v: Tensor) -> Window:  # type: ignore[override]
        end = self.start + k.shape[1]
        new = torch.arange(self.begin, self.begin + k.shape[1] // self.patches, device=k.device)
        self.k[layer, :, self.start : end] = rotate_pairs(k, *self._turn(-new))
        self.v[layer, :, self.start : end] = v
        return rotate_pairs(self.k[layer, :, :end], *self._turn(self._frames(end))), self.v[layer, :, :end], None

    def _frames(self, end: int) -> Tensor:
        """Absolute latent frame of every kept frame."""
        num_sinks, num_frames = self.pattern.sink_frames, end // self.patches
        recent = max(0, num_frames - num_sinks)
        last = self.begin + (end - self.start) // self.patches
        frames = [*range(min(num_sinks, num_frames)), *range(last - recent, last)]
        return torch.tensor(frames, device=self.k.device)

    def _turn(self, frames: Tensor) -> Rotation:
        cos, sin = rotation(frames, 1, 1, self.head_dim)
        return cos.repeat_interleave(self.patches, dim=0), sin.repeat_interleave(self.patches, dim=0)


POLICIES: dict[str, type[RingCache]] = {
    "ring": RingCache,
    "roll": RollCache,
    "concatenate": ConcatenateCache,
    "rotate_all": RotateAllCache,
}
