"""The two autoencoders behind one interface: gwm's small one, and Wan's; which one it is, their config says.

Both have `encode_image` and `encode_after` for a clip behind its reference image, `state_after` and `decode` for a
stream behind one, and `initial_state`, which is zeros, before any.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from gwm.autoencoders.motion.config import MotionConfig
from gwm.config import VAEConfig
from gwm.vae import VAE
from gwm.wan.vae import WanVAE, load_wan_vae
from gwm.wan.vae_config import FAMILY, WanVAEConfig
from gwm.weights import is_written_here, load_weights, read_header

Autoencoder = VAE | WanVAE
AutoencoderConfig = VAEConfig | WanVAEConfig | MotionConfig


def autoencoder_config(values: Mapping[str, Any]) -> AutoencoderConfig:
    """From a decoded JSON object.

    Raises:
        ValueError: a key is missing or unknown.
    """
    families = {FAMILY: WanVAEConfig, "motion": MotionConfig}
    return families.get(values.get("family", ""), VAEConfig).from_json(values)


def build_autoencoder(config: AutoencoderConfig) -> Autoencoder:
    """An autoencoder of this shape with random weights.

    Raises:
        ValueError: the motion autoencoder, which is loaded by `gwm.autoencoders.motion.codec.load_motion`.
    """
    if isinstance(config, MotionConfig):
        raise ValueError("family='motion' must be another one here: its autoencoder needs the reference image itself.")
    return WanVAE(config) if isinstance(config, WanVAEConfig) else VAE(config)


def load_autoencoder(path: Path) -> Autoencoder:
    """A frozen autoencoder in evaluation mode: of a gwm stage, or a published one (`gwm.wan.vae.load_wan_vae`).

    Raises:
        FileNotFoundError: there is none.
        ValueError: tensors are missing, foreign, misshaped or not finite.
    """
    if not is_written_here(path):
        return load_wan_vae(path)
    vae = build_autoencoder(autoencoder_config(read_header(path, kind="vae")["config"]))
    load_weights(path, vae)
    return vae.eval().requires_grad_(False)
