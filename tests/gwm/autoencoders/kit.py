"""One small autoencoder of each family, with random weights that all matter."""

import dataclasses

import torch

from gwm.autoencoders.motion.basis import FEATURES
from gwm.autoencoders.motion.code import MotionConfig
from gwm.autoencoders.motion.codec import MotionAutoencoder
from gwm.autoencoders.motion.network import MotionNetwork
from gwm.autoencoders.protocol import Autoencoder
from gwm.wan.vae import WanVAE
from gwm.wan.vae_config import WAN2_1_VAE
from tests.tiny import lively, tiny_vae

TINY_MOTION = MotionConfig(half=8, quarter=8, eighth=8, sixteenth=8, hidden=16, warped=6)
SIDE = {"haar": 32, "motion": 96, "wan": 32}  # px of pictures whose latents have 4, 2 and 4 rows
GRID = {"haar": 4, "motion": 2, "wan": 4}


def tiny_motion() -> MotionAutoencoder:
    """It moves and redraws everything."""
    network = MotionNetwork(TINY_MOTION)
    for weight in network.parameters():
        if weight.ndim > 1:
            torch.nn.init.normal_(weight, 0, 0.1)
    network.decoder.basis.set(torch.randn(FEATURES, 2, 64, 64) * 0.2)
    return MotionAutoencoder(network).eval().requires_grad_(False)


def tiny_autoencoder(family: str) -> Autoencoder:
    torch.manual_seed(0)
    match family:
        case "haar":
            made = tiny_vae()
        case "motion":
            return tiny_motion()
        case _:
            made = lively(WanVAE(dataclasses.replace(WAN2_1_VAE, base_dim=8, decoder_base_dim=8)))
    return made.eval().requires_grad_(False)  # type: ignore[return-value]  # lively gives back what it was given


def pictures(family: str, *shape: int) -> torch.Tensor:
    return torch.randint(0, 256, (*shape, SIDE[family], SIDE[family], 3), dtype=torch.uint8)


def noise(autoencoder: Autoencoder, num_frames: int, batch_size: int = 1) -> torch.Tensor:
    config = autoencoder.config
    grid = GRID[config.family]
    return torch.randn(batch_size, num_frames, config.latent_channels, grid, grid, device=autoencoder.device)
