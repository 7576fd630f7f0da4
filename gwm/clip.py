"""Whole clips through the model in one pass: for training, and for sampling by the bidirectional teacher.

The reference image's latent leads every clip: clean, at latent frame 0, seen by all frames and seeing only itself.
"""

import torch
from jaxtyping import Float
from torch import Tensor

from gwm.attention import MaskedClip
from gwm.chunks import ChunkPattern
from gwm.condition.inputs import Conditions
from gwm.dit import Denoiser, Prediction, num_patches
from gwm.masks import clip_mask, teacher_forcing_mask


def clip_prediction(
    model: Denoiser,
    x: Float[Tensor, "b f c h w"],
    sigma: Float[Tensor, "b f"],
    *,
    reference: Float[Tensor, "b 1 c h w"],
    condition: Conditions,
    pattern: ChunkPattern,
) -> Prediction:
    """What the model makes of a noised clip behind its reference, whose frames see each other as `pattern` says."""
    whole = torch.cat([reference, x], dim=1)
    levels = torch.cat([sigma.new_zeros(len(sigma), 1), sigma], dim=1)
    num_frames = whole.shape[1]
    mask = clip_mask(num_frames, pattern, patches=num_patches(x, model.config), device=x.device)
    positions = torch.arange(num_frames, device=x.device)
    return model(
        whole,
        levels,
        condition.after_reference(),
        positions=positions,
        context=MaskedClip(mask),
        reference=reference,
    )


def clip_velocity(
    model: Denoiser,
    x: Float[Tensor, "b f c h w"],
    sigma: Float[Tensor, "b f"],
    *,
    reference: Float[Tensor, "b 1 c h w"],
    condition: Conditions,
    pattern: ChunkPattern,
) -> Float[Tensor, "b f c h w"]:
    """Velocity of a noised clip without its reference; `condition` is of the clip's frames."""
    prediction = clip_prediction(model, x, sigma, reference=reference, condition=condition, pattern=pattern)
    return prediction.velocity[:, 1:]


def teacher_forced_velocity(
    model: Denoiser,
    x: Float[Tensor, "b f c h w"],
    sigma: Float[Tensor, "b f"],
    *,
    history: Float[Tensor, "b f c h w"],
    reference: Float[Tensor, "b 1 c h w"],
    condition: Conditions,
    pattern: ChunkPattern,
) -> Float[Tensor, "b f c h w"]:
    """Velocity of a noised clip in which every chunk sees the clean `history` before it, as when it is served.

    Source: Huang et al. 2025, arXiv:2506.08009, Sec. 3.1 (teacher forcing in one pass over [clean | noised]).
    """
    clean = torch.cat([reference, history], dim=1)
    num_frames = clean.shape[1]
    levels = torch.cat([sigma.new_zeros(len(sigma), num_frames), sigma], dim=1)
    mask = teacher_forcing_mask(num_frames, pattern, patches=num_patches(x, model.config), device=x.device)
    positions = torch.arange(num_frames, device=x.device)
    prediction = model(
        torch.cat([clean, x], dim=1),
        levels,
        condition.after_reference().repeat_clip(1),
        positions=torch.cat([positions, positions[1:]]),
        context=MaskedClip(mask),
        reference=reference,
    )
    return prediction.velocity[:, num_frames:]
