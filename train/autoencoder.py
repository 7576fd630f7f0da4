"""Stage 0: the streaming autoencoder. It decides whether lips survive, so its loss looks at what moves."""

from collections.abc import Iterable, Iterator
from dataclasses import replace
from functools import partial
from itertools import islice
from typing import Any

import lightning as L
import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from data.batch import PixelBatch
from data.shards import Clip, decode_frames, read_samples
from data.storage import Location
from gwm.autoencoders.haar import BANDS, HaarAutoencoder, HaarConfig, to_bands
from gwm.autoencoders.protocol import KIND
from gwm.media.pixels import to_float, to_tensor
from gwm.transfer import to_host
from gwm.weights import WeightsHeader
from train.learner import Learner
from train.networks import load_vae
from train.noise import gaussian_like, sample_generators
from train.played import Played

STATISTICS_CLIPS = 64  # enough for means and deviations of the channels to two digits
STILL_SHARE = 0.3  # weight of a patch that does not move, against 1 for one that moves as the mean does


def motion_weight(pixel_frames: Float[Tensor, "b t 3 h w"], strength: float) -> Float[Tensor, "b t 1 h w"]:
    """1 where nothing moves, up to 1 + strength where a pixel is far from its mean over the clip."""
    away = (pixel_frames - pixel_frames.mean(dim=1, keepdim=True)).abs().mean(dim=2, keepdim=True)
    return 1 + strength * (away / 0.2).clamp(max=1)


def gradients(pixel_frames: Float[Tensor, "b t 3 h w"]) -> tuple[Tensor, Tensor]:
    """Differences between neighbouring pixels, along height and width: what blur loses first."""
    return pixel_frames.diff(dim=-2), pixel_frames.diff(dim=-1)


def reconstruction_loss(
    decoded: Float[Tensor, "b t 3 h w"],
    pixel_frames: Float[Tensor, "b t 3 h w"],
    *,
    motion: float,
    gradient: float,
    change: float,
) -> Float[Tensor, ""]:
    """L1 and squares of pixels, L1 of spatial gradients, L1 and squares of frame differences, weighted by motion.

    Squares, because the median of what a pixel may do next is to stay: L1 alone is content with four equal frames.
    """
    weight = motion_weight(pixel_frames, motion)
    error = decoded - pixel_frames
    loss = (weight * (error.abs() + 2 * error.square())).mean()
    for d, p, w in zip(gradients(decoded), gradients(pixel_frames), (weight[..., 1:, :], weight[..., 1:]), strict=True):
        loss = loss + gradient * (w * (d - p).abs()).mean()
    moved = error.diff(dim=1)
    return loss + change * (weight[:, 1:] * (moved.abs() + 10 * moved.square())).mean()


def motion_kept(decoded: Float[Tensor, "b t 3 h w"], pixel_frames: Float[Tensor, "b t 3 h w"]) -> Float[Tensor, ""]:
    """Share of the squared differences between the frames of a latent frame that decoding explains; at most 1."""
    true = pixel_frames.unflatten(1, (-1, 4)).diff(dim=2)
    missed = decoded.unflatten(1, (-1, 4)).diff(dim=2) - true
    return 1 - missed.square().sum() / true.square().sum().clamp(min=1e-6)


class AutoencoderStage(L.LightningModule):
    """Train encoder and decoder on crops; latents get a little noise, since the diffusion model's will be noisy.

    `init` starts from trained weights, for instance those that ship with the repository; None starts from nothing.
    """

    takes_sound = takes_actions = False

    def __init__(
        self,
        *,
        config: HaarConfig,
        init: str | None,
        latent_noise: float,
        latent_penalty: float,
        motion: float,
        gradient: float,
        change: float,
        network: partial[Learner[HaarAutoencoder]],
        seed: int,
    ) -> None:
        super().__init__()
        vae = HaarAutoencoder(config) if init is None else load_vae(init)
        if not isinstance(vae, HaarAutoencoder):
            raise ValueError(f"init={init} is of family={vae.config.family}, must be haar: this stage trains that one.")
        self.network = network(vae.train().requires_grad_(True))
        self.latent_noise, self.latent_penalty = latent_noise, latent_penalty
        self.motion, self.gradient, self.change = motion, gradient, change
        self.fitted, self.seed = init is not None, seed

    def setup(self, stage: str) -> None:
        # Now, while the weights are whole: the strategy may divide them among devices before training starts.
        if not self.fitted and self.trainer.ckpt_path is None:
            shards = self.trainer.datamodule.shards  # type: ignore[attr-defined]
            fit_patches(self.network.model, first_clips(shards, self.network.model))

    def training_step(self, batch: PixelBatch, batch_idx: int) -> Float[Tensor, ""]:
        generators = sample_generators(self.seed, batch, self.device)
        latents = self.network.model.encode_pixels(batch.pixel_frames)
        noisy = latents + self.latent_noise * gaussian_like(latents, generators)
        decoded, _ = self.network.model.decode_at_once(noisy, self.network.model.initial_state(noisy))
        loss = reconstruction_loss(
            decoded, batch.pixel_frames, motion=self.motion, gradient=self.gradient, change=self.change
        )
        error = (decoded.detach() - batch.pixel_frames).square().mean()
        kept = motion_kept(decoded.detach(), batch.pixel_frames)
        self.log_dict({"train/psnr": 10 * torch.log10(4 / error), "train/latent_std": latents.std()})
        self.log("train/motion_kept", kept)
        self.log("train/loss", loss, prog_bar=True)
        return loss + self.latent_penalty * latents.square().mean()

    @property
    def sample_tokens(self) -> int:
        """Latent cells of the crops of a training clip."""
        data, config = self.trainer.datamodule, self.network.model.config  # type: ignore[attr-defined]
        cells = (data.crop_frames // config.temporal_stride) * (data.crop_size // config.spatial_stride) ** 2
        return data.crops_per_clip * cells

    def configure_optimizers(self):  # Lightning's own union of a dozen types
        return self.network.optimizers()

    @torch.no_grad()
    def decode(
        self, model: HaarAutoencoder, clips: list[Clip], data: Any, *, batch_size: int, swap_voices: bool = False
    ) -> Played:
        """Held-out clips through encoder and decoder."""
        decoded = []
        for clip in clips:
            reference = model.encode_reference(to_tensor(clip.reference)[None])
            latents = model.encode(to_tensor(clip.frames)[None], reference)
            decoded.append(to_host(model.decode(latents, model.begin(reference))[0][0]).numpy())
        return decoded, [0] * len(clips)

    def weights(self) -> tuple[HaarAutoencoder, WeightsHeader]:
        """The autoencoder's EMA with its latent statistics measured on training clips."""
        normalised = with_statistics(self.network.ema_model, self.trainer.datamodule.shards)  # type: ignore[attr-defined]
        return normalised, WeightsHeader(kind=KIND, config=normalised.config.to_json())


def first_clips(shards: Location, vae: HaarAutoencoder) -> Iterator[Float[Tensor, "1 t 3 h w"]]:
    for sample in islice(read_samples(shards, "train"), STATISTICS_CLIPS):
        yield to_float(decode_frames(sample["mp4"]))[None].to(vae.mean)


@torch.no_grad()
def fit_patches(vae: HaarAutoencoder, clips: Iterable[Float[Tensor, "1 t 3 h w"]]) -> None:
    """Start the linear part at the principal components of the clips' 8x8 patches, each patch weighted by how much it
    moves. Latents then have deviation 1, and decoding is the best that a linear one can be."""
    size, layer, inverse = vae.config.spatial_stride, vae.encoder.patch, vae.decoder.unpatch
    features = BANDS * size**2
    total, mean, second = 0.0, layer.weight.new_zeros(features), layer.weight.new_zeros(features, features)
    for pixel_frames in clips:
        patches = F.unfold(to_bands(pixel_frames)[0], size, stride=size).transpose(1, 2).flatten(0, 1)
        moving = patches[:, 3 * size**2 :].square().mean(1)
        weight = moving / moving.mean().clamp(min=1e-6) + STILL_SHARE
        total = total + weight.sum()
        mean += weight @ patches
        second += (weight[:, None] * patches).T @ patches
    mean = mean / total
    bias = mean.view(BANDS, -1).mean(1)  # a convolution has one per band and colour, not one per pixel
    centre = bias.repeat_interleave(size**2)
    away = mean - centre
    covariance = second / total - mean[:, None] * mean + away[:, None] * away
    values, vectors = torch.linalg.eigh(covariance.double())
    count = vae.config.latent_channels
    deviation = values[-count:].clamp(min=1e-8).sqrt().float()[:, None]
    components = vectors.T[-count:].float()
    weights = {
        "encoder.patch.weight": (components / deviation).view_as(layer.weight),
        "encoder.patch.bias": -(components / deviation) @ centre,
        "decoder.unpatch.weight": (components * deviation).view_as(inverse.weight),
        "decoder.unpatch.bias": bias,
    }
    vae.load_state_dict(weights, strict=False)


@torch.no_grad()
def with_statistics(vae: HaarAutoencoder, shards: Location) -> HaarAutoencoder:
    """A copy whose latents have mean 0 and mean square 1 over the first training clips of `shards`, each channel with a
    deviation in proportion to what it adds to the picture. Equal deviations would make the diffusion model spend its
    width on the many faint channels."""
    raw = torch.cat([(vae.encode_pixels(clip) * vae.std + vae.mean)[0] for clip in first_clips(shards, vae)])
    mean, std = raw.mean(dim=(0, 2, 3)), raw.std(dim=(0, 2, 3))
    share = std * vae.decoder.unpatch.weight.flatten(1).norm(dim=1)
    std = std / (share / share.square().mean().sqrt())
    config = replace(vae.config, latents_mean=tuple(mean.tolist()), latents_std=tuple(std.tolist()))
    normalised = HaarAutoencoder(config)
    normalised.load_state_dict(vae.state_dict())
    return normalised.eval()
