"""Networks between stages: read what an earlier stage left, or say which command makes it."""

import json
import logging
from pathlib import Path
from typing import Any

from gwm.config import AudioConfig, DiTConfig, VAEConfig
from gwm.contract import Contract
from gwm.dit import DiT
from gwm.vae import VAE
from gwm.weights import load_weights, read_header

log = logging.getLogger(__name__)


def require(folder: str | Path, *, stage: str) -> Path:
    """The weights folder of an earlier stage.

    Raises:
        FileNotFoundError: it is not there; the message has the command that makes it.
    """
    folder = Path(folder)
    if not (folder / "config.json").is_file():
        name = folder.parent.parent.name
        raise FileNotFoundError(
            f"{folder} does not exist: this stage starts from what stage={stage} leaves. "
            f"Make it with: python train.py stage={stage} name={name}"
        )
    failed = json.loads((folder / "config.json").read_text()).get("gate", {}).get("failed")
    if failed:
        log.warning("%s did not pass its gate (%s): do not expect more of this stage.", folder, "; ".join(failed))
    return folder


def load_vae(folder: str | Path) -> VAE:
    """A frozen autoencoder in evaluation mode."""
    folder = require(folder, stage="autoencoder")
    vae = VAE(VAEConfig.from_json(read_header(folder, kind="vae")["config"]))
    load_weights(folder, vae)
    return vae.eval().requires_grad_(False)


def load_speech(folder: str | Path, model: DiT, audio: AudioConfig) -> None:
    """Give the model a trained ear.

    Raises:
        ValueError: it was trained on other audio features.
    """
    folder = require(folder, stage="speech")
    trained = AudioConfig.from_json(read_header(folder, kind="speech")["config"])
    if trained != audio:
        raise ValueError(f"{folder} was trained on {trained}, the run has {audio}. Train one: train.py stage=speech.")
    if model.speech_encoder is not None:
        load_weights(folder, model.speech_encoder)


def load_dit(folder: str | Path, *, stage: str) -> tuple[DiT, Contract]:
    """A DiT and the contract it was trained under."""
    folder = require(folder, stage=stage)
    header = read_header(folder, kind="dit")
    model = DiT(DiTConfig.from_json(header["config"]))
    load_weights(folder, model)
    return model, Contract.from_json(header["contract"])


def dit_facts(contract: Contract) -> dict[str, Any]:
    """What is stored beside the weights of a DiT."""
    return {"kind": "dit", "config": contract.dit.to_json(), "contract": contract.to_json()}


def dit_config(vae: VAEConfig, audio: AudioConfig, **shape: Any) -> DiTConfig:
    """A DiT that fits an autoencoder and its audio features; `shape` holds the free numbers."""
    return DiTConfig(
        in_channels=vae.latent_channels,
        text_dim=0,
        speech_dim=audio.window_features(vae.temporal_stride),
        speech_mels=audio.num_mels,
        **shape,
    )
