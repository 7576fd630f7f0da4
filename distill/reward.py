"""Lip-sync as a reward: clips whose mouths fit their voice have a larger weight in the student's step.

Source: Lu et al. 2025 (Reward Forcing), arXiv:2512.04678 (a DMD loss times exp(beta reward)); normalised here, so that
the learning rate keeps its meaning, and over every sample of the batch on all devices.
"""

from pathlib import Path
from typing import Protocol, runtime_checkable

import numpy as np
import torch
from jaxtyping import Float, UInt8
from torch import Tensor

from distill.windows import Window
from gwm.autoencoders.protocol import Autoencoder
from gwm.condition.audio import own_features
from gwm.contract import Contract
from gwm.media.face import FaceMesh
from gwm.media.pixels import to_float
from gwm.metrics.face_track import Track, face_track, mouth_crops, seen
from gwm.metrics.judge import MIN_SEEN
from gwm.metrics.sync_net import CROP_PX, MAX_LAG, WINDOW_FRAMES, SyncNet, lag_distance, load_sync_net, windows
from gwm.transfer import to_host

TRACKED = 4  # the mesh, which is what costs, looks at one frame in so many: between them a head moves little


@runtime_checkable
class Reward(Protocol):
    """Rates each clip; more is better, NaN: no rating."""

    beta: float

    def __call__(self, window: Window, contract: Contract, vae: Autoencoder) -> Float[Tensor, "b"]: ...

    def check(self, contract: Contract, batch_size: int) -> None:
        """Refuse, before training, a contract or a batch size that the reward cannot use.

        Raises:
            ValueError: clips of this contract cannot be judged, or nothing can be weighed against anything.
        """
        ...


def reward_weights(rewards: Float[Tensor, "b"], everyones: Float[Tensor, "n"], beta: float) -> Float[Tensor, "b"]:
    """exp(beta reward) over its mean over `everyones` rewards, those of all devices; 1 where the reward is NaN."""
    judged = everyones[everyones.isfinite()]
    if not len(judged):
        return torch.ones_like(rewards)
    log_mean = torch.logsumexp(beta * judged, dim=0) - np.log(len(judged))
    return torch.where(rewards.isfinite(), (beta * rewards - log_mean).exp(), torch.ones_like(rewards))


class LipSyncReward:
    """Distance of mouth and voice at wrong lags minus their distance at lag 0, by the lip-sync network of the metrics.

    0 is no relation; a mouth that is late gets nothing. Clips in which no face is found have no reward.
    """

    def __init__(self, *, sync: str, beta: float, num_frames: int) -> None:
        """sync: folder of the network. num_frames: latent frames at the end of a clip that are looked at."""
        self.net, self.mesh = load_sync_net(Path(sync)), FaceMesh()
        self.beta, self.num_frames = beta, num_frames

    def check(self, contract: Contract, batch_size: int) -> None:
        if contract.vae.working_side is not None:
            raise ValueError(
                "stage.reward must be null with family=motion: rewards look at decoded clips, and this decoder needs "
                "each clip's reference image, which latents are kept without."
            )
        if not contract.dit.width("agent"):
            raise ValueError("stage.reward must be null for a model that takes no sound: there is no lip-sync.")
        if batch_size < 2:
            raise ValueError(
                f"batch_size={batch_size} must be >= 2 with stage.reward: the weight of a single sample is always 1."
            )
        pixel_frames, minimum = self.num_frames * contract.vae.temporal_stride, 3 * WINDOW_FRAMES
        if pixel_frames < minimum:
            raise ValueError(
                f"reward.num_frames={self.num_frames} are {pixel_frames} pixel frames, must be >= {minimum}: "
                "lags are compared."
            )
        trained, heard = self.net.audio, contract.audio
        if trained.frame_features != heard.frame_features or trained.sample_rate != heard.sample_rate:
            raise ValueError(
                f"audio={heard} must have the hops and mels of the lip-sync network, {trained}. Train one on it: "
                "python train.py stage=sync shards=..."
            )

    @torch.no_grad()
    def __call__(self, window: Window, contract: Contract, vae: Autoencoder) -> Float[Tensor, "b"]:
        """Everything is decoded, as decoders remember; a stream's window as if it began at the reference."""
        latents, reference = (x.to(vae.device, vae.dtype) for x in (window.x0, window.reference))
        pixels, _ = vae.decode(latents, vae.begin(vae.from_latent(reference)))
        stride = contract.vae.temporal_stride
        voices = own_features(window.condition["agent"], contract.audio, temporal_stride=stride).cpu()
        last = slice(-self.num_frames * stride, None)
        rewards = [
            self.judge(to_host(clip[last]).numpy(), voice[last]) for clip, voice in zip(pixels, voices, strict=True)
        ]
        return torch.tensor(rewards, device=window.x0.device)

    def judge(self, frames: UInt8[np.ndarray, "f h w 3"], voice: Float[Tensor, "f k"]) -> float:
        """Reward of one clip and its voice's features; NaN without a face."""
        track = face_track(frames[::TRACKED], self.mesh).repeat(TRACKED, axis=0)[: len(frames)]
        return synchrony(self.net, frames, track, voice) if seen(track) >= MIN_SEEN else float("nan")


def synchrony(net: SyncNet, frames: UInt8[np.ndarray, "f h w 3"], track: Track, voice: Float[Tensor, "f k"]) -> float:
    """Median distance of mouth and voice over lags, less the distance at lag 0."""
    mouth = net.embed_mouths(windows(to_float(mouth_crops(frames, track, CROP_PX))))
    spoken = net.embed_voice(windows(voice))
    max_lag = min(MAX_LAG, len(mouth) - WINDOW_FRAMES)
    distances = [lag_distance(mouth, spoken, lag) for lag in range(-max_lag, max_lag + 1)]
    return float(np.median(distances)) - distances[max_lag]
