"""What one batch of each stage computes: the same passes on random data, for planning and for timing.

Under `FakeTensorMode` nothing of it is allocated; on a device it runs as training does.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor, nn

from data.batch import TEXT_TOKENS
from gwm.autoencoders.families import autoencoder_config
from gwm.autoencoders.haar import HaarAutoencoder, HaarConfig
from gwm.autoencoders.protocol import KIND, AutoencoderConfig
from gwm.chunks import ChunkPattern, whole_clip
from gwm.clip import CleanClip, NoisedClip, clip_velocity, teacher_forced_velocity
from gwm.condition.inputs import Conditions
from gwm.config import AudioConfig, DiTConfig
from gwm.contract import Contract
from gwm.dit import DiT
from gwm.resolution import Resolution
from gwm.wan.vae_config import WAN2_1_VAE, WAN2_2_VAE
from gwm.weights import is_written_here, read_header
from train.autoencoder import reconstruction_loss
from train.flow import clean_weight, velocity_loss
from train.networks import dit_config

IMAGE_TOKENS = 257  # of CLIP ViT-H/14, as Wan 2.1 I2V has it


class Pass(NamedTuple):
    """A loss, or a rollout without gradient, and how often a batch computes it."""

    compute: Callable[[], Tensor]
    per_batch: float = 1.0


@dataclass(frozen=True)
class Work:
    """Networks of a stage and what a batch does with them."""

    trained: list[nn.Module]  # each with gradients, an optimizer and an EMA
    frozen: list[nn.Module]
    passes: list[Pass]
    tokens: int  # of the batch's clips
    cache_bytes: int = 0  # keys and values that a rollout keeps
    host_bytes: int = 0  # frozen weights that stay on the host


WorkBuilder = Callable[..., Work]  # of batch_size=, what one device computes at once


@dataclass(frozen=True)
class RandomClips(CleanClip):
    """A batch for a DiT, with noise levels."""

    config: DiTConfig
    sigma: Float[Tensor, "b f"]

    @property
    def as_noised(self) -> NoisedClip:
        """The clips as they are, in the place of noised ones."""
        return NoisedClip(self.x0, self.sigma, self.reference, self.condition)

    @property
    def tokens(self) -> int:
        return self.x0[:, :, 0].numel() // self.config.patch**2

    def loss(self, velocity: Float[Tensor, "b f c h w"]) -> Float[Tensor, ""]:
        weight, levels = torch.ones(self.x0.shape[-2:]), clean_weight(self.sigma, self.config)
        return velocity_loss(velocity, self.x0, torch.randn_like(self.x0), weight, level_weight=levels)


def random_clips(config: DiTConfig, *, batch_size: int, num_frames: int, height: int, width: int) -> RandomClips:
    """`num_frames` latent frames after the reference image, with every condition that the config has."""
    shape = (config.in_channels, height, width)
    x0, reference = torch.randn(batch_size, num_frames, *shape), torch.randn(batch_size, 1, *shape)
    sigma = torch.rand(batch_size, num_frames)
    condition = random_conditions(config, batch_size=batch_size, num_frames=num_frames, height=height, width=width)
    return RandomClips(x0, reference, condition, config, sigma)


def random_conditions(
    config: DiTConfig, *, batch_size: int, num_frames: int, height: int, width: int, text_tokens: int = TEXT_TOKENS
) -> Conditions:
    """Every condition that the config declares."""
    counts = {"text": text_tokens, "image": config.places or IMAGE_TOKENS}
    flat = {}
    for spec in config.conditions:
        if spec.rate == "frame":
            flat[f"frame.{spec.name}"] = torch.randn(batch_size, num_frames, spec.width)
        elif spec.rate == "tokens":
            flat[f"tokens.{spec.name}"] = torch.randn(batch_size, counts[spec.encoder], spec.width)
            flat[f"nothing.{spec.name}"] = torch.randn(1, spec.width)
        else:
            flat[f"channels.{spec.name}"] = torch.randn(batch_size, num_frames, spec.width, height, width)
            flat[f"reference_channels.{spec.name}"] = torch.randn(batch_size, 1, spec.width, height, width)
    return Conditions.from_flat(flat)


def planned_contract(
    *,
    init: str,
    vae: str | AutoencoderConfig,
    model: dict[str, Any],
    audio: AudioConfig,
    resolution: Resolution,
    num_frames: int,
    pattern: ChunkPattern,
    inherits: bool = False,
) -> Contract:
    """The contract of the model that the stage would start from; of the configured one as long as there is none.

    inherits: the stage keeps the chunks of that model.
    """
    if is_written_here(Path(init)):
        found = Contract.from_json(read_header(Path(init), kind="dit").contract)
        return found if inherits else found.replace(pattern=pattern)
    vae_config = planned_autoencoder(Path(vae), model) if isinstance(vae, str) else vae
    return Contract(
        dit=dit_config(vae_config, audio, model),
        vae=vae_config,
        audio=audio,
        pattern=pattern,
        resolution=resolution,
        sigmas=(1.0,),
        solver="ode",
        context="clean",
        horizon_frames=num_frames,
    )


def planned_autoencoder(folder: Path, model: dict[str, Any]) -> AutoencoderConfig:
    """What a stage left there; else the published one for whose latents the model is shaped, or gwm's own."""
    if is_written_here(folder):
        return autoencoder_config(read_header(folder, kind=KIND).config)
    published = {config.latent_channels: config for config in (WAN2_1_VAE, WAN2_2_VAE)}
    return published[model["in_channels"]] if "in_channels" in model else HaarConfig()


def clips_of(contract: Contract, batch_size: int, num_frames: int) -> RandomClips:
    """A random batch on a contract's grid."""
    height, width = contract.latent_grid
    return random_clips(contract.dit, batch_size=batch_size, num_frames=num_frames, height=height, width=width)


def bidirectional(contract: Contract, *, batch_size: int, num_frames: int) -> Work:
    """As `train.bidirectional`."""
    return flow_work(clips_of(contract, batch_size, num_frames), whole_clip(num_frames + 1, first_frames=1))


def causal(contract: Contract, *, batch_size: int, num_frames: int) -> Work:
    """As `train.causal`."""
    return flow_work(clips_of(contract, batch_size, num_frames), contract.pattern, teacher_forcing=True)


def flow_work(clips: RandomClips, pattern: ChunkPattern, *, teacher_forcing: bool = False) -> Work:
    """Flow matching of one DiT."""
    model = DiT(clips.config)
    velocity = partial(teacher_forced_velocity, history=clips.x0) if teacher_forcing else clip_velocity

    def loss() -> Tensor:
        return clips.loss(velocity(model, clips.as_noised, pattern))

    return Work([model], [], [Pass(loss)], clips.tokens)


def autoencoder(config: HaarConfig, *, batch_size: int, crops_per_clip: int, crop_frames: int, crop_size: int) -> Work:
    """As `train.autoencoder`; its tokens are latent cells."""
    vae = HaarAutoencoder(config)
    num_crops = batch_size * crops_per_clip
    pixel_frames = torch.rand(num_crops, crop_frames, 3, crop_size, crop_size) * 2 - 1

    def loss() -> Tensor:
        latents = vae.encode_pixels(pixel_frames)
        noisy = latents + 0.05 * torch.randn_like(latents)
        decoded, _ = vae.decode_at_once(noisy, vae.initial_state(noisy))
        penalty = 1e-4 * latents.square().mean()
        return reconstruction_loss(decoded, pixel_frames, motion=4.0, gradient=1.0, change=4.0) + penalty

    cells = (crop_frames // config.temporal_stride) * (crop_size // config.spatial_stride) ** 2
    return Work([vae], [], [Pass(loss)], num_crops * cells)


def geometry(
    dit: DiTConfig,
    *,
    batch_size: int,
    num_frames: int,
    height: int,
    width: int,
    pattern: ChunkPattern | None,
) -> Work:
    """Flow matching on a latent grid of any shape: teacher forcing under `pattern`, bidirectional without one."""
    clips = random_clips(dit, batch_size=batch_size, num_frames=num_frames, height=height, width=width)
    whole = whole_clip(num_frames + 1, first_frames=1)
    return flow_work(clips, whole if pattern is None else pattern, teacher_forcing=pattern is not None)
