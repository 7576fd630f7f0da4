"""Keyframes: frames of a clip that are known, at any position, as channels beside the noised latents.

Every latent frame is given the known frame that comes next, which may be itself: its latents, and how near it is. So a
model of whole clips fills in what lies between, and a causal one goes towards a picture that lies ahead. This is a
sink that looks ahead, seen by each frame by itself: what a chunk was given stays as it was, and no key is moved.
Channels that published image-to-video models are given are the case in which the first frame alone is known.
"""

import dataclasses

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from gwm.condition.inputs import Conditions
from gwm.config import DiTConfig


def next_known(x0: Float[Tensor, "b f c h w"], known: Bool[Tensor, "b f"]) -> Float[Tensor, "b f c+1 h w"]:
    """Latents of the first known frame that is not before each frame, and 1 / (1 + d) for its distance of d frames: 1
    where the frame itself is known. Zeros where no known frame follows.

    A Brownian bridge to the known frame drifts by its distance in value times the same 1 / d.
    """
    num_frames = x0.shape[1]
    frame = torch.arange(num_frames, device=x0.device)
    ahead = known[:, None] & (frame[None] >= frame[:, None])
    following = torch.where(ahead, frame, num_frames).amin(dim=-1)
    there = (following < num_frames)[..., None, None, None]
    near = (1.0 / (1 + following - frame))[..., None, None, None].to(x0)
    latents = x0[torch.arange(len(x0), device=x0.device)[:, None], following.clamp(max=num_frames - 1)]
    return torch.cat([latents, near.expand_as(x0[:, :, :1])], dim=2) * there


def with_keyframes(
    condition: Conditions, config: DiTConfig, x0: Float[Tensor, "b f c h w"], known: Bool[Tensor, "b f"] | None = None
) -> Conditions:
    """The conditions with the known frames of `x0`, none by default; as they are where the model takes no keyframes.
    The reference image's frame is given none: it stays in a stream's cache, whatever becomes known later."""
    spec = config.keyframes
    if spec is None:
        return condition
    planes = x0.new_zeros(*x0.shape[:2], spec.width, *x0.shape[3:]) if known is None else next_known(x0, known)
    return dataclasses.replace(
        condition,
        channels={**condition.channels, spec.name: planes},
        reference_channels={**condition.reference_channels, spec.name: torch.zeros_like(planes[:, :1])},
    )
