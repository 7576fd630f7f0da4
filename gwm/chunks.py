"""Which latent frames are generated together and which chunks a chunk may see: one rule for mask, cache and loss."""

from dataclasses import dataclass
from typing import TypeVar

import torch
from jaxtyping import Bool, Int
from torch import Tensor

from gwm.files.json_text import JsonConfig

T = TypeVar("T")


@dataclass(frozen=True, kw_only=True, slots=True)
class ChunkPattern(JsonConfig):
    """Division of a stream of latent frames into chunks, and the visibility between them.

    A chunk sees itself, the chunks before it that are among the last `window_chunks - sink_chunks` (its own included),
    and the first `sink_chunks` chunks for ever. With a reference image `first_frames` is 1: the image's latent is
    chunk 0, a sink of its own.
    """

    chunk_frames: int = 1
    window_chunks: int = 8
    sink_chunks: int = 1
    first_frames: int = 1  # frames of chunk 0; 0: chunk 0 is like the others

    def __post_init__(self) -> None:
        if self.chunk_frames < 1:
            raise ValueError(f"chunk_frames={self.chunk_frames} must be >= 1.")
        if self.first_frames < 0:
            raise ValueError(f"first_frames={self.first_frames} must be >= 0: 0 means no special first chunk.")
        if not 0 <= self.sink_chunks < self.window_chunks:
            raise ValueError(
                f"sink_chunks={self.sink_chunks} must be in [0, window_chunks={self.window_chunks}): "
                "the current chunk needs a slot of its own. Raise window_chunks or lower sink_chunks."
            )
        if self.sink_chunks == 0 and self.first_frames > self.chunk_frames:
            raise ValueError(
                f"first_frames={self.first_frames} must be <= chunk_frames={self.chunk_frames} without sinks: chunk 0 "
                "must fit into the ring. Set sink_chunks to 1 or more."
            )

    @property
    def ring_frames(self) -> int:
        """Latent frames that are kept and then forgotten, the current chunk's included."""
        return (self.window_chunks - self.sink_chunks) * self.chunk_frames

    @property
    def sink_frames(self) -> int:
        """Latent frames that are never forgotten."""
        return self.chunk_start(self.sink_chunks)

    def chunk_start(self, chunk: int) -> int:
        """First latent frame of a chunk."""
        if not self.first_frames:
            return chunk * self.chunk_frames
        return 0 if chunk == 0 else self.first_frames + (chunk - 1) * self.chunk_frames

    def chunk_of(self, frame: Int[Tensor, "*f"]) -> Int[Tensor, "*f"]:
        """Index of the chunk that holds each latent frame."""
        if not self.first_frames:
            return frame // self.chunk_frames
        later = torch.div(frame - self.first_frames, self.chunk_frames, rounding_mode="floor") + 1
        return torch.where(frame < self.first_frames, torch.zeros_like(frame), later)

    def num_chunks(self, num_frames: int) -> int:
        """Whole chunks in `num_frames` latent frames.

        Raises:
            ValueError: the last chunk would be incomplete.
        """
        rest = num_frames - self.first_frames
        if rest < 0 or rest % self.chunk_frames:
            raise ValueError(
                f"num_frames={num_frames} must be first_frames={self.first_frames} plus a multiple of "
                f"chunk_frames={self.chunk_frames}: chunks are generated whole."
            )
        return rest // self.chunk_frames + (1 if self.first_frames else 0)

    def kept(self, chunks: tuple[T, ...]) -> tuple[T, ...]:
        """Of a stream's chunks, oldest first, those that the next one sees."""
        sinks, recent = self.sink_chunks, self.window_chunks - self.sink_chunks - 1
        return chunks if len(chunks) <= sinks + recent else chunks[:sinks] + chunks[len(chunks) - recent :]

    def sees(self, query: Int[Tensor, "q"], key: Int[Tensor, "k"]) -> Bool[Tensor, "q k"]:
        """Visibility between chunk indices."""
        q, k = query[:, None], key[None]
        recent = k > q - (self.window_chunks - self.sink_chunks)
        return (k <= q) & (recent | (k < self.sink_chunks))


def whole_clip(num_frames: int, *, first_frames: int) -> ChunkPattern:
    """The pattern of a bidirectional model: the clip after the reference image is one chunk."""
    return ChunkPattern(
        chunk_frames=num_frames - first_frames,
        first_frames=first_frames,
        window_chunks=2 if first_frames else 1,
        sink_chunks=1 if first_frames else 0,
    )
