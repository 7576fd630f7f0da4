"""Stage 0: the streaming autoencoder. It decides whether lips survive, so its loss looks at what moves."""

from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import lightning as L
import torch
from jaxtyping import Float
from torch import Tensor

from data.batch import PixelBatch
from data.shards import Clip, decode_frames, read_samples
from gwm.config import VAEConfig
from gwm.pixels import to_float, to_uint8
from gwm.vae import VAE
from train.generate import Played
from train.network import load_vae
from train.noise import gaussian_like, step_generator
from train.trainee import Trainee

STATISTICS_CLIPS = 64  # enough for means and deviations of 16 channels to two digits


def motion_weight(pixel_frames: Float[Tensor, "b t 3 h w"], strength: float) -> Float[Tensor, "b t 1 h w"]:
    """1 where nothing moves, up to 1 + strength where a pixel is far from its mean over the clip."""
    away = (pixel_frames - pixel_frames.mean(dim=1, keepdim=True)).abs().mean(dim=2, keepdim=True)
    return 1 + strength * (away / 0.2).clamp(max=1)


def gradients(pixel_frames: Float[Tensor, "b t 3 h w"]) -> tuple[Tensor, Tensor]:
    """Differences between neighbouring pixels, along height and width: what blur loses first."""
    return pixel_frames.diff(dim=-2), pixel_frames.diff(dim=-1)


def reconstruction_loss(
    decoded: Float[Tensor, "b t 3 h w"], pixel_frames: Float[Tensor, "b t 3 h w"], *, motion: float, gradient: float
) -> Float[Tensor, ""]:
    """L1 on pixels, on spatial gradients and on frame differences, weighted by motion."""
    weight = motion_weight(pixel_frames, motion)
    loss = (weight * (decoded - pixel_frames).abs()).mean()
    for d, p, w in zip(gradients(decoded), gradients(pixel_frames), (weight[..., 1:, :], weight[..., 1:]), strict=True):
        loss = loss + gradient * (w * (d - p).abs()).mean()
    change = (decoded.diff(dim=1) - pixel_frames.diff(dim=1)).abs()
    return loss + gradient * (weight[:, 1:] * change).mean()


class AutoencoderStage(L.LightningModule):
    """Train encoder and decoder on crops; latents get a little noise, since the diffusion model's will be noisy.

    `init` starts from trained weights, for instance those that ship with the repository; None starts from nothing.
    """

    hears = False

    def __init__(
        self,
        *,
        config: VAEConfig,
        init: str | None,
        latent_noise: float,
        latent_penalty: float,
        motion: float,
        gradient: float,
        network: partial[Trainee[VAE]],
        seed: int,
    ) -> None:
        super().__init__()
        vae = VAE(config) if init is None else load_vae(init).train().requires_grad_(True)
        self.network = network(vae)
        self.latent_noise, self.latent_penalty = latent_noise, latent_penalty
        self.motion, self.gradient, self.seed = motion, gradient, seed

    def training_step(self, batch: PixelBatch, batch_idx: int) -> Float[Tensor, ""]:
        generator = step_generator(self.seed, batch.step, self.device)
        latents = self.network.model.encode(batch.pixel_frames)
        noisy = latents + self.latent_noise * gaussian_like(latents, generator)
        decoded, _ = self.network.model.decode(noisy)
        loss = reconstruction_loss(decoded, batch.pixel_frames, motion=self.motion, gradient=self.gradient)
        error = (decoded.detach() - batch.pixel_frames).square().mean()
        self.log_dict({"train/psnr": 10 * torch.log10(4 / error), "train/latent_std": latents.std()})
        self.log("train/loss", loss, prog_bar=True)
        return loss + self.latent_penalty * latents.square().mean()

    def configure_optimizers(self):  # Lightning's own union of a dozen types
        return self.network.optimizers()

    @torch.no_grad()
    def decode(self, model: VAE, clips: list[Clip], data: Any, *, batch_size: int, swap_voices: bool = False) -> Played:
        """Held-out clips through encoder and decoder."""
        decoded = [model.decode(model.encode(to_float(clip.frames)[None]))[0][0] for clip in clips]
        return [to_uint8(frames) for frames in decoded], [0] * len(clips)

    def weights(self) -> tuple[VAE, dict[str, Any]]:
        """The averaged autoencoder with its latent statistics measured on training clips."""
        normalised = with_statistics(self.network.trained, Path(self.trainer.datamodule.shards))  # type: ignore[attr-defined]
        return normalised, {"kind": "vae", "config": normalised.config.to_json()}


@torch.no_grad()
def with_statistics(vae: VAE, shards: Path) -> VAE:
    """A copy whose latents have mean 0 and deviation 1 per channel over the first training clips of `shards`."""
    latents = []
    for number, sample in enumerate(read_samples(shards, "train")):
        if number == STATISTICS_CLIPS:
            break
        latents.append(vae.encode(to_float(decode_frames(sample["mp4"]))[None].to(vae.mean)) * vae.std + vae.mean)
    raw = torch.cat([x[0] for x in latents])
    mean, std = raw.mean(dim=(0, 2, 3)), raw.std(dim=(0, 2, 3))
    config = replace(vae.config, latents_mean=tuple(mean.tolist()), latents_std=tuple(std.tolist()))
    normalised = VAE(config)
    normalised.load_state_dict(vae.state_dict())
    return normalised.eval()
