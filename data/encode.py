"""Cache what the diffusion model reads: VAE latents and speech features of every clip, as shards of their own.

python -m data.encode shards=shards/nano vae=runs/nano/autoencoder/weights out=runs/nano/latents
"""

import dataclasses
import io
import json
import logging
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import hydra
import numpy as np
import torch
from hydra.utils import instantiate
from jaxtyping import Float
from omegaconf import DictConfig
from torch import Tensor
from tqdm import tqdm

from data.crops import motion
from data.manifest import Manifest, SplitManifest, read_manifest, write_manifest
from data.pixels import halved
from data.shards import Clip, decode_sample, read_samples, write_shard
from data.storage import Location, locate
from gwm.condition.audio import frame_features
from gwm.config import AudioConfig, VAEConfig
from gwm.pixels import to_float
from gwm.vae import VAE
from gwm.weights import fingerprint, load_weights, read_header

log = logging.getLogger(__name__)

KIND = "latents"


@torch.no_grad()
def encode_clip(clip: Clip, vae: VAE, audio: AudioConfig) -> dict[str, Tensor]:
    """Latents of clip and reference image, features of both streams per pixel frame, motion per latent cell."""
    latents = vae.encode(to_float(clip.frames)[None])[0]
    reference = vae.encode_image(to_float(clip.reference)[None])[0]
    agent, user = (_features(samples, len(clip.frames), audio) for samples in (clip.agent, clip.user))
    side = vae.config.spatial_stride
    moving = motion(clip.frames)
    rows, columns = moving.shape[0] // side, moving.shape[1] // side
    return {
        "latents": latents,
        "reference": reference,
        "agent": agent,
        "user": user,
        "motion": torch.from_numpy(moving.reshape(rows, side, columns, side).mean((1, 3))),
    }


def _features(
    samples: Float[np.ndarray, " t"] | None, num_frames: int, audio: AudioConfig
) -> Float[Tensor, "t_frames k"]:
    """Features of one stream; zeros, which mean "not given", where it is not known."""
    if samples is None:
        return torch.zeros(num_frames, audio.frame_features)
    return frame_features(torch.from_numpy(samples)[None].float(), audio)[0]


def encode_shards(shards: Location, out: Path, *, vae: VAE, audio: AudioConfig, resolution: int) -> Manifest:
    """Encode every split of pixel shards, shard by shard; finished ones are kept when nothing changed.

    Raises:
        ValueError: `resolution` is neither that of the shards nor half of it; or `out` holds other latents.
    """
    source = read_manifest(shards)
    generator = {
        "source": source.generator,
        "vae": fingerprint(vae.state_dict()),
        "audio": audio.to_json(),
        "resolution": resolution,
    }
    if (out / "manifest.json").is_file():
        found = read_manifest(out)
        if found.generator == generator:
            return found
        raise ValueError(
            f"{out} holds latents of another autoencoder, audio configuration or data set. Delete the folder, or "
            "choose another one."
        )
    out.mkdir(parents=True, exist_ok=True)
    splits = {}
    for split, entry in source.splits.items():
        clips = tqdm(read_samples(shards, split), desc=f"encode {split}", total=entry.num_samples, unit="clip")
        encoded = (_sample(halved(decode_sample(s), resolution), vae, audio) for s in clips)
        shard = write_shard(out / f"{split}-000000.tar", encoded)
        splits[split] = SplitManifest(shards=[shard], identities=entry.identities, sentences=entry.sentences)
    command = f"python -m data.encode shards={shards} out={out}"
    manifest = dataclasses.replace(
        source, kind=KIND, splits=splits, command=command, generator=generator, resolution=resolution
    )
    write_manifest(out, manifest)
    return manifest


def read_latents(folder: Location, split: str) -> Iterator[dict[str, Float[Tensor, "..."]]]:
    """Encoded clips as float32 tensors: latents, reference, agent, user, motion."""
    for sample in read_samples(folder, split):
        arrays = np.load(io.BytesIO(sample["latents.npz"]))
        yield {name: torch.from_numpy(arrays[name]).float() for name in arrays.files}


def _sample(clip: Clip, vae: VAE, audio: AudioConfig) -> dict[str, Any]:
    buffer = io.BytesIO()
    arrays = encode_clip(clip, vae, audio)
    halves: Any = {name: array.numpy().astype(np.float16) for name, array in arrays.items()}
    np.savez(buffer, **halves)
    return {"__key__": clip.key, "latents.npz": buffer.getvalue(), "json": json.dumps(clip.info).encode()}


@hydra.main(version_base="1.3", config_path="../configs", config_name="encode")
def main(cfg: DictConfig) -> None:
    folder = Path(cfg.vae)
    vae = VAE(VAEConfig.from_json(read_header(folder, kind="vae")["config"]))
    load_weights(folder, vae)
    encode_shards(
        locate(cfg.shards), Path(cfg.out), vae=vae.eval(), audio=instantiate(cfg.audio), resolution=cfg.resolution
    )


if __name__ == "__main__":
    main()
