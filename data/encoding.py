"""Clips to latents and conditions, shard by shard, in one process or several."""

import io
import multiprocessing
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import numpy as np
import torch
from jaxtyping import Float, UInt8
from torch import Tensor

from data.crops import halved, motion
from data.latents import BEFORE, MEMBER, write_index
from data.manifest import Shard
from data.shards import CONTINUES, Clip, Truth, decode_sample, read_shard, write_shard
from data.storage import Location, beside
from gwm.autoencoders.motion.code import standardise, to_latents
from gwm.autoencoders.motion.codec import MotionAutoencoder
from gwm.autoencoders.protocol import Autoencoder, AutoencoderConfig
from gwm.condition.audio import frame_features
from gwm.config import AudioConfig
from gwm.files.json_text import json_text
from gwm.media.pixels import to_float, to_tensor
from gwm.resolution import Resolution
from gwm.wan.encoders import image_channels
from gwm.wan.vae import WanVAE


@runtime_checkable
class TextEncoder(Protocol):
    """Tokens of a caption; must pickle."""

    name: str  # changes with everything that changes the tokens

    def __call__(self, caption: str) -> Float[Tensor, "s t"]:
        """As many tokens as the caption has; also of an empty one."""
        ...


@runtime_checkable
class ImageEncoder(Protocol):
    """Tokens of a reference image, for models that are given it beside their latents too; must pickle."""

    name: str  # changes with everything that changes the tokens

    def __call__(self, image: UInt8[np.ndarray, "h w 3"]) -> Float[Tensor, "j i"]: ...


@dataclass(frozen=True)
class Encoders:
    """The encoders and settings that determine an encoded clip."""

    vae: Autoencoder
    audio: AudioConfig
    resolution: Resolution
    text: TextEncoder | None = None
    image: ImageEncoder | None = None
    actions: tuple[str, ...] = ()  # facial actions of rendered clips by name; none: what a clip itself brings


def codes(
    actions: Float[np.ndarray, "f 52"],
    pose: Float[np.ndarray, "f 3"],
    gaze: Float[np.ndarray, "f 2"],
    *,
    reference_pose: Float[np.ndarray, "3"],
) -> Float[Tensor, "f 57"]:
    """The exact motion code of every pixel frame."""
    return standardise(*map(torch.from_numpy, (actions, pose - reference_pose, gaze)))


def exact_latents(clip: Clip, truth: Truth) -> Float[Tensor, "f c h w"]:
    """Motion latents of a rendered clip, from the renderer's own values.

    Raises:
        ValueError: the truth does not have the reference's pose.
    """
    if truth.reference_pose is None:
        raise ValueError(
            f"clip {clip.key} must have its reference's pose in truth.npz: motion latents of rendered clips are exact. "
            "Make the shards again with data.characters."
        )
    return to_latents(codes(truth.actions, truth.pose, truth.gaze, reference_pose=truth.reference_pose)[None])[0]


@torch.no_grad()
def encode_clip(
    clip: Clip,
    vae: Autoencoder,
    audio: AudioConfig,
    *,
    encoder: ImageEncoder | None = None,
    actions: Sequence[str] = (),
) -> dict[str, Tensor]:
    """Latents of clip and reference image (where they are motion codes and the clip is rendered, exact ones), motion
    per latent cell, and conditions by their group and name: features of both voices and other signals per pixel frame
    (`speech.`, `frame.`); with an image encoder also its tokens and the channels that an image-to-video model is given
    of the reference image.

    Raises:
        ValueError: as `Clip.acted` and `exact_latents`.
    """
    reference = vae.encode_reference(to_tensor(clip.reference)[None])
    if clip.truth is not None and isinstance(vae, MotionAutoencoder):
        latents = exact_latents(clip, clip.truth)
    else:
        latents = vae.encode(to_tensor(clip.frames)[None], reference)[0].cpu()
    agent, user = (_features(samples, len(clip.frames), audio) for samples in (clip.agent, clip.user))
    arrays = {
        "latents": latents,
        "reference": reference.latent[0].cpu(),
        "speech.agent": agent,
        "speech.user": user,
        "motion": cell_motion(clip.frames, vae.config),
    }
    if clip.info.get(CONTINUES):
        stride = vae.config.temporal_stride
        pictures = np.concatenate([clip.reference[None], clip.frames[stride - 1 : -1 : stride]])
        arrays[BEFORE] = vae.encode_reference(to_tensor(pictures)).latent[:, 0].cpu()
    acted = clip.acted(actions)
    signals = dict(clip.signals) if acted is None else {**clip.signals, "action": acted}
    arrays |= {f"frame.{name}": torch.from_numpy(values) for name, values in signals.items()}
    if encoder is None:
        return arrays
    if not isinstance(vae, WanVAE):
        raise ValueError(f"image={encoder.name} must be null with a {vae.config.family} autoencoder: only Wan's.")
    own, after = image_channels(vae, to_float(clip.reference)[None].to(vae.device), len(latents))
    given = {"reference_channels.given": own[0].cpu(), "channels.given": after[0].cpu()}
    return arrays | {"tokens.image": encoder(clip.reference)} | given


def cell_motion(frames: UInt8[np.ndarray, "t h w 3"], config: AutoencoderConfig) -> Float[Tensor, "rows columns"]:
    """Motion at the place of each latent cell; equal everywhere where cells are no places."""
    moving, side = torch.from_numpy(motion(frames)), config.spatial_stride
    if config.working_side is not None:
        return moving.mean().expand(config.working_side // side, config.working_side // side)
    rows, columns = moving.shape[0] // side, moving.shape[1] // side
    return moving.view(rows, side, columns, side).mean((1, 3))


def _features(
    samples: Float[np.ndarray, " t"] | None, num_frames: int, audio: AudioConfig
) -> Float[Tensor, "t_frames k"]:
    """Features of one stream; zeros, which mean "not given", where it is not known."""
    if samples is None:
        return torch.zeros(num_frames, audio.frame_features)
    return frame_features(torch.from_numpy(samples)[None].float(), audio)[0]


def encode_sample(sample: dict[str, Any], encoders: Encoders) -> dict[str, Any]:
    """Webdataset sample of an encoded clip; arrays in half precision, actions and text where there are any."""
    clip = halved(decode_sample(sample), encoders.resolution)
    encoded = encode_clip(clip, encoders.vae, encoders.audio, encoder=encoders.image, actions=encoders.actions)
    arrays: dict[str, Any] = {name: tensor.numpy() for name, tensor in encoded.items()}
    if encoders.text is not None:
        arrays["tokens.text"] = encoders.text(clip.info.get("caption") or "").numpy()
    buffer = io.BytesIO()
    np.savez(buffer, **{name: array.astype(np.float16) for name, array in arrays.items()})  # type: ignore[arg-type]
    return {"__key__": clip.key, MEMBER: buffer.getvalue(), "json": json_text(clip.info).encode()}


def encode_shard(
    name: str, *, shards: Location, out: Path, encoders: Encoders, counted: Callable[[], Any] | None = None
) -> Shard:
    """One shard to one of the same name; `counted` is called after every clip."""

    def samples() -> Iterator[dict[str, Any]]:
        for sample in read_shard(beside(shards, name)):
            yield encode_sample(sample, encoders)
            if counted is not None:
                counted()

    shard = write_shard(out / name, samples())
    write_index(out / name, encoders.audio)
    return shard


def encode_all(
    names: list[str], *, shards: Location, out: Path, encoders: Encoders, workers: int, bar: Any
) -> Iterator[Shard]:
    """Finished shards, in the order in which they are; in this process for one worker."""
    work = partial(encode_shard, shards=shards, out=out, encoders=encoders)
    if workers == 1:
        yield from (work(name, counted=bar.update) for name in names)
        return
    # Spawned: a forked process shares the locks of torch's and FFmpeg's threads without the threads.
    with ProcessPoolExecutor(workers, mp_context=multiprocessing.get_context("spawn")) as pool:
        for future in as_completed([pool.submit(work, name) for name in names]):
            shard = future.result()
            bar.update(shard.num_samples)
            yield shard
