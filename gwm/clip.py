"""Whole clips through the model in one pass: for training, and for sampling by the bidirectional teacher.

The reference image's latent leads every clip: clean, at latent frame 0, seen by all frames and seeing only itself.
Masks are True where a query may look; rows are queries, columns keys.
"""

import dataclasses
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from gwm.block import MaskedClip
from gwm.chunks import ChunkPattern
from gwm.condition.inputs import Conditions
from gwm.dit import Denoiser, Prediction, num_patches
from gwm.schedule import add_noise
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


@dataclass(frozen=True)
class NoisedClip:
    """Noised latents of clips, with their noise levels and conditions."""

    x: Float[Tensor, "b f c h w"]
    sigma: Float[Tensor, "b f"]
    reference: Float[Tensor, "b 1 c h w"]  # latent of the reference image
    condition: Conditions  # of the clip's frames, without the reference

    def under(self, condition: Conditions) -> "NoisedClip":
        """The same clips under other conditions, for guidance."""
        return dataclasses.replace(self, condition=condition)

    def at(self, x: Float[Tensor, "b f c h w"], sigma: Float[Tensor, "b f"]) -> "NoisedClip":
        """Other latents at other noise levels under the same conditions."""
        return dataclasses.replace(self, x=x, sigma=sigma)


@dataclass(frozen=True)
class CleanClip:
    """Clean latents of clips, of data or of a student, with their conditions."""

    x0: Float[Tensor, "b f c h w"]
    reference: Float[Tensor, "b 1 c h w"]  # latent of the reference image
    condition: Conditions  # of the clip's frames, without the reference

    def noised(self, noise: Float[Tensor, "b f c h w"], sigma: Float[Tensor, "b f"]) -> NoisedClip:
        return NoisedClip(add_noise(self.x0, noise, sigma), sigma, self.reference, self.condition)

    def with_x0(self, x0: Float[Tensor, "b f c h w"]) -> "CleanClip":
        """Other latents under the same conditions."""
        return dataclasses.replace(self, x0=x0)


def clip_prediction(model: Denoiser, clip: NoisedClip, pattern: ChunkPattern) -> Prediction:
    """Prediction for clips behind their reference image; `pattern` decides which frames see each other."""
    whole = torch.cat([clip.reference, clip.x], dim=1)
    num_frames = whole.shape[1]
    mask = clip_mask(num_frames, pattern, patches=num_patches(whole, model.config), device=whole.device)
    return model(
        whole,
        torch.cat([clip.sigma.new_zeros(len(whole), 1), clip.sigma], dim=1),
        clip.condition.after_reference(),
        positions=torch.arange(num_frames, device=whole.device),
        context=MaskedClip(mask),
        reference=clip.reference,
    )


def clip_velocity(model: Denoiser, clip: NoisedClip, pattern: ChunkPattern) -> Float[Tensor, "b f c h w"]:
    """Velocity of noised clips without their reference."""
    return clip_prediction(model, clip, pattern).velocity[:, 1:]


def teacher_forced_velocity(
    model: Denoiser, clip: NoisedClip, pattern: ChunkPattern, *, history: Float[Tensor, "b f c h w"]
) -> Float[Tensor, "b f c h w"]:
    """Velocity of noised clips in which every chunk sees the clean `history` before it, as when it is served.

    Source: Huang et al. 2025, arXiv:2506.08009, Sec. 3.1 (teacher forcing in one pass over [clean | noised]).
    """
    clean = torch.cat([clip.reference, history], dim=1)
    num_frames = clean.shape[1]
    mask = teacher_forcing_mask(num_frames, pattern, patches=num_patches(clean, model.config), device=clean.device)
    positions = torch.arange(num_frames, device=clean.device)
    prediction = model(
        torch.cat([clean, clip.x], dim=1),
        torch.cat([clip.sigma.new_zeros(len(clean), num_frames), clip.sigma], dim=1),
        clip.condition.after_reference().repeat_clip(1),
        positions=torch.cat([positions, positions[1:]]),
        context=MaskedClip(mask),
        reference=clip.reference,
    )
    return prediction.velocity[:, num_frames:]
