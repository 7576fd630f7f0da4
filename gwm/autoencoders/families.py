"""Which autoencoder a config or a weights folder names: `haar`, `motion` or `wan`."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from gwm.autoencoders.haar import HaarAutoencoder, HaarConfig
from gwm.autoencoders.motion.code import MotionConfig
from gwm.autoencoders.motion.codec import MotionAutoencoder
from gwm.autoencoders.motion.network import MotionNetwork
from gwm.autoencoders.protocol import KIND, Autoencoder, AutoencoderConfig
from gwm.files.tensors import read_json
from gwm.wan.vae import WanVAE, load_wan_vae
from gwm.wan.vae_config import WanVAEConfig
from gwm.weights import is_written_here, load_weights, read_header


def autoencoder_config(values: Mapping[str, Any]) -> AutoencoderConfig:
    """From a decoded JSON object, by its `family`.

    Raises:
        ValueError: the family is not given or unknown; a key is missing or unknown.
    """
    match values.get("family"):
        case "haar":
            return HaarConfig.from_json(values)
        case "motion":
            return MotionConfig.from_json(values)
        case "wan":
            return WanVAEConfig.from_json(values)
        case other:
            raise ValueError(
                f"family={other!r} must be one of haar, motion, wan: every autoencoder's config names its family. "
                'Files of before 2026-11-29 have none: add "family": "haar" to the autoencoder\'s config.'
            )


def build_autoencoder(config: AutoencoderConfig) -> HaarAutoencoder | MotionAutoencoder | WanVAE:
    """An autoencoder of this shape with random weights."""
    match config:
        case HaarConfig():
            return HaarAutoencoder(config)
        case MotionConfig():
            return MotionAutoencoder(MotionNetwork(config))
        case WanVAEConfig():
            return WanVAE(config)
        case _:
            raise ValueError(f"config={config} must be of the family haar, motion or wan.")


def load_autoencoder(path: Path) -> Autoencoder:
    """A frozen autoencoder in evaluation mode: of a gwm stage, of an exported artifact, or a published one
    (`gwm.wan.vae.load_wan_vae`).

    Raises:
        FileNotFoundError: there is none.
        ValueError: tensors are missing, foreign, misshaped or not finite.
    """
    if (path / "manifest.json").is_file():
        config, file = read_json(path / "manifest.json")["contract"]["vae"], "vae.safetensors"
    elif is_written_here(path):
        config, file = read_header(path, kind=KIND).config, "weights.safetensors"
    else:
        return load_wan_vae(path)
    autoencoder = build_autoencoder(autoencoder_config(config))
    load_weights(path, autoencoder, file=file)
    return autoencoder.eval().requires_grad_(False)
