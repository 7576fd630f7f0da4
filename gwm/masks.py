"""Attention masks of a whole clip: True where a query may look. Rows are queries, columns keys."""

import torch

from gwm.chunks import ChunkPattern
from kernels.frame_mask import FrameMask


def clip_mask(num_frames: int, pattern: ChunkPattern, *, patches: int, device: torch.device) -> FrameMask:
    """Block-causal mask of a clip with `patches` tokens per latent frame: attention is bidirectional in a chunk."""
    chunk = pattern.chunk_of(torch.arange(num_frames, device=device))
    return FrameMask(pattern.sees(chunk, chunk), patches)


def teacher_forcing_mask(num_frames: int, pattern: ChunkPattern, *, patches: int, device: torch.device) -> FrameMask:
    """Mask over [clean clip | noised clip]: each noised chunk sees itself and the clean past, never its own clean self.

    The clean half is the whole clip; the noised half leaves out the first `first_frames`, which are given.
    Source: Huang et al. 2025, arXiv:2506.08009, Fig. 2a; positions are shared by both halves.
    """
    clean = pattern.chunk_of(torch.arange(num_frames, device=device))
    noised = clean[pattern.first_frames :]
    past = pattern.sees(noised, clean) & (clean[None] < noised[:, None])
    own = noised[:, None] == noised[None]
    nothing = torch.zeros(len(clean), len(noised), dtype=torch.bool, device=device)
    top = torch.cat([pattern.sees(clean, clean), nothing], dim=1)
    return FrameMask(torch.cat([top, torch.cat([past, own], dim=1)]), patches)
