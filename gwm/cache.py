"""Keys and values of past chunks: an immutable tuple for training, a ring in fixed storage for serving; and those of
the prompt.

Both pasts keep keys rotated at their absolute frame. They move the sinks along once the stream is longer than training
clips were: the distance from the current chunk to a sink never exceeds `horizon_frames`. A negative one puts sinks
ahead: the first always seems to come so many frames after the current chunk.
"""

from dataclasses import dataclass
from functools import cached_property

import torch
from jaxtyping import Float, Int
from torch import Tensor

from gwm.block import Committed, CrossAttention, KeysValues, PromptTokens
from gwm.chunks import ChunkPattern
from gwm.config import DiTConfig
from gwm.rope import Rotation, time_rotation
from kernels.attention import Prefix, Ring, rotate_pairs
from kernels.sink_rope import turn_sinks


@dataclass(frozen=True)
class PastChunks:
    """Committed chunks, newest last, one `KeysValues` per layer each. Never changed: `commit` returns a new one, so
    a recomputed forward pass (activation checkpointing) sees what the first one saw."""

    pattern: ChunkPattern
    horizon_frames: int
    chunks: tuple[tuple[Committed, ...], ...] = ()
    num_committed: int = 0

    def commit(self, chunk: tuple[KeysValues, ...]) -> "PastChunks":
        """Append a chunk's keys and values and forget what the next chunk cannot see."""
        chunks = self.pattern.kept((*self.chunks, chunk))
        return PastChunks(self.pattern, self.horizon_frames, chunks, self.num_committed + 1)

    @cached_property
    def sink_turn(self) -> Rotation | None:
        """What keeps the sinks at their distance from the next chunk, for all layers; None inside the horizon."""
        shift = self.pattern.chunk_start(self.num_committed + 1) - 1 - self.horizon_frames
        if shift <= 0 or not self.chunks:
            return None
        k, _ = self.chunks[0][0]
        return time_rotation(torch.tensor(shift, device=k.device), k.shape[-1])

    def ring(self, layer: int) -> None:
        return None

    def visible(
        self, layer: int, k: Float[Tensor, "b l n e"], v: Float[Tensor, "b l n e"]
    ) -> tuple[Float[Tensor, "b s n e"], Float[Tensor, "b s n e"], None]:
        past = [chunk[layer] for chunk in self.chunks]
        keys = [past_k for past_k, _ in past]
        if self.sink_turn is not None:
            sinks = self.pattern.sink_chunks
            keys = [rotate_pairs(sink, *self.sink_turn) for sink in keys[:sinks]] + keys[sinks:]
        return torch.cat([*keys, k], dim=1), torch.cat([*(past_v for _, past_v in past), v], dim=1), None


class RingCache:
    """Keys and values of the visible frames in storage that never moves, for sampling and serving without gradient.

    Sinks come first, then a ring of latent frames. The current chunk is written in place by every denoising step
    and fixed by `advance`; until the ring is full the valid slots are a prefix. All bookkeeping is in device tensors,
    so a captured graph stays valid for a whole session and no step waits for the host.
    """

    def __init__(
        self,
        config: DiTConfig,
        pattern: ChunkPattern,
        *,
        patches: int,
        horizon_frames: int,
        batch_size: int = 1,
        device: torch.device | str = "cpu",
        dtype: torch.dtype = torch.float32,
    ) -> None:
        self.pattern, self.patches, self.horizon_frames = pattern, patches, horizon_frames
        self.head_dim = config.head_dim
        tokens = (pattern.sink_frames + pattern.ring_frames) * patches
        shape = (config.num_layers, batch_size, tokens, config.num_heads, config.head_dim)
        self.k = torch.zeros(shape, device=device, dtype=dtype)
        self.v = torch.zeros(shape, device=device, dtype=dtype)
        # Sinks as first rotated: every chunk turns them anew from here, so that rounding never adds up.
        self.sink_k = torch.zeros_like(self.k[:, :, : pattern.sink_frames * patches])
        self.frame = torch.zeros((), dtype=torch.long, device=device)  # first latent frame of the current chunk
        self._slot = torch.arange(tokens, device=device)
        self._new, self._prefix = self._slot[:0], Prefix(self._slot[:1].int(), self._bias(self._slot[:1]))

    def reset(self) -> None:
        """Back to an empty stream; storage stays where it is, and what it holds can no longer be seen."""
        self.frame.zero_()

    def positions(self, num_frames: int) -> Int[Tensor, "f"]:
        """Absolute latent frames of the current chunk; call before each pass, whose keys go to the chunk's slots."""
        end = self.frame * self.patches + num_frames * self.patches
        length = end.clamp(max=len(self._slot))
        self._new, self._prefix = self.slots(num_frames), Prefix(length.int()[None], self._bias(length))
        return self.frame + torch.arange(num_frames, device=self.frame.device)

    def _bias(self, length: Int[Tensor, "*_"]) -> Float[Tensor, "1 s"]:
        nothing = torch.zeros((), device=self.k.device, dtype=self.k.dtype)
        return torch.where(self._slot < length, nothing, -torch.inf)[None]

    def slots(self, num_frames: int) -> Int[Tensor, "l"]:
        """Where the tokens of the current chunk are kept: sinks in order, then round the ring."""
        return self._slots(self.frame * self.patches, num_frames * self.patches)

    def _slots(self, start: Int[Tensor, ""], tokens: int) -> Int[Tensor, "l"]:
        token = start + torch.arange(tokens, device=self.frame.device)
        sinks, ring = self.pattern.sink_frames * self.patches, self.pattern.ring_frames * self.patches
        return torch.where(token < sinks, token, sinks + (token - sinks) % ring)

    def ring(self, layer: int) -> Ring:
        return Ring(self.k[layer], self.v[layer], self._new)

    def visible(
        self, layer: int, k: Float[Tensor, "b l n e"], v: Float[Tensor, "b l n e"]
    ) -> tuple[Float[Tensor, "b s n e"], Float[Tensor, "b s n e"], Prefix]:
        """The whole storage, in which the current chunk is in place already; not differentiable."""
        return self.k[layer], self.v[layer], self._prefix

    def follow(self, num_frames: int) -> None:
        """Rotate the sinks to their distance from the current chunk; once a chunk, before its first step."""
        if self.sink_k.shape[2]:
            shift = (self.frame + num_frames - 1 - self.horizon_frames).clamp(min=0)
            turn_sinks(self.k, self.sink_k, *time_rotation(shift, self.head_dim), self.frame * self.patches)

    def put(self, start: int, chunk: tuple[KeysValues, ...]) -> None:
        """Replace the keys and values of the chunk that begins at latent frame `start` and is still there."""
        k, v = (torch.stack(layers).to(self.k.dtype) for layers in zip(*chunk, strict=True))
        slots = self._slots(torch.full_like(self.frame, start) * self.patches, k.shape[2])
        self.k.index_copy_(2, slots, k)
        self.v.index_copy_(2, slots, v)
        if start < self.pattern.sink_frames:
            self.sink_k.index_copy_(2, slots, k)

    def advance(self, num_frames: int) -> None:
        """Fix the current chunk: the next one gets slots of its own."""
        sinks = self.sink_k.shape[2]
        if sinks:
            end = (self.frame + num_frames) * self.patches
            new = (self._slot[:sinks] >= self.frame * self.patches) & (self._slot[:sinks] < end)
            self.sink_k.copy_(torch.where(new[None, None, :, None, None], self.k[:, :, :sinks], self.sink_k))
        self.frame.add_(num_frames)


class PromptCache:
    """Keys and values of a stream's text, and of an image, by layer; in storage that never moves.

    The first pass after `forget` computes them, and all later ones read them. Every text has as many tokens as the
    first.
    """

    def __init__(self, num_layers: int) -> None:
        self.layers: list[tuple[Committed, ...]] = [()] * num_layers
        self._missing = num_layers  # layers that have not made theirs
        self._tokens: PromptTokens | None = None

    @property
    def known(self) -> bool:
        return self._missing == 0

    def forget(self) -> None:
        """Mark what is stored as outdated, after a change of text or of weights: the next pass computes it again in the
        same storage."""
        self._missing = len(self.layers)

    def recompute(self, tokens: PromptTokens) -> "PromptCache":
        """The cache for a pass in which every layer computes its keys and values of `tokens`."""
        self._tokens, self._missing = tokens, len(self.layers)
        return self

    def keys_values(self, layer: CrossAttention) -> tuple[Committed, ...]:
        if not self.known:
            assert self._tokens is not None, "the model hands over its tokens before its layers ask"
            self._put(layer.layer, layer.keys_values(self._tokens))
            self._missing -= 1
        return self.layers[layer.layer]

    def _put(self, layer: int, new: tuple[Committed, ...]) -> None:
        old = self.layers[layer]
        if not old:
            self.layers[layer] = new
            return
        lengths, expected = ([k.shape[1] for k, _ in pairs] for pairs in (new, old))
        if lengths != expected:
            raise ValueError(
                f"keys and values of {lengths} tokens must be of {expected}, as the stream's first: they are kept in "
                "one place. Pad texts to one length, or make another stream."
            )
        for static, made in zip(old, new, strict=True):
            for storage, values in zip(static, made, strict=True):
                storage.copy_(values)
