"""Networks between stages: read what an earlier stage left, or say which command makes it; and write a folder
that diffusers reads."""

import dataclasses
import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from gwm.autoencoders.families import load_autoencoder
from gwm.autoencoders.protocol import Autoencoder, AutoencoderConfig
from gwm.chunks import whole_clip
from gwm.condition.spec import ConditionSpec, specs_of
from gwm.config import AudioConfig, DiTConfig
from gwm.contract import Contract
from gwm.convert import load_wan, save_diffusers, without_conditions
from gwm.dit import DiT
from gwm.files.tensors import read_json
from gwm.resolution import Resolution
from gwm.wan.files import missing_hint
from gwm.weights import WeightsHeader, is_written_here, load_weights, read_header

log = logging.getLogger(__name__)


def require(folder: str | Path, *, stage: str) -> Path:
    """The weights folder of an earlier stage.

    Raises:
        FileNotFoundError: it is not there; the message has the command that makes it.
    """
    folder = Path(folder)
    if not (folder / "config.json").is_file():
        name = folder.parent.parent.name
        command = f"python train.py stage={stage} name={name}, with the experiment= of this run if it has one"
        made = f"Make it with: {command}" if name else missing_hint(folder)
        raise FileNotFoundError(f"{folder} does not exist: this stage starts from what stage={stage} leaves. {made}")
    gate = read_json(folder / "config.json").get("gate", {})
    failed = gate.get("failed")
    if gate.get("not_measured"):
        log.warning("%s was judged without %s, which nobody measured.", folder, ", ".join(gate["not_measured"]))
    if failed:
        log.warning("%s did not pass its gate (%s): do not expect more of this stage.", folder, "; ".join(failed))
    return folder


@dataclass(frozen=True, kw_only=True)
class Base:
    """What a stage needs to know that starts from published weights, or from random ones."""

    model: dict[str, Any]  # shape, with the conditions to be added
    vae: str | AutoencoderConfig  # a folder, or the shape of one that is trained elsewhere: codes need no autoencoder
    speech: str  # folder of a trained speech encoder
    audio: AudioConfig
    resolution: Resolution
    num_frames: int

    def contract(self) -> Contract:
        """The contract of a bidirectional model: a whole clip behind a reference image."""
        vae = load_vae(self.vae).config if isinstance(self.vae, str) else self.vae
        return Contract(
            dit=dit_config(vae, self.audio, self.model),
            vae=vae,
            audio=self.audio,
            pattern=whole_clip(self.num_frames + 1, first_frames=1),
            resolution=self.resolution,
            sigmas=(1.0,),
            solver="ode",
            context="clean",
            horizon_frames=self.num_frames,
        )

    def random(self) -> tuple[DiT, Contract]:
        """A model with random weights, besides the trained speech encoder."""
        contract = self.contract()
        model = DiT(contract.dit)
        load_speech(self.speech, model, self.audio)
        return model, contract

    def published(self, folder: Path) -> tuple[DiT, Contract]:
        """A published checkpoint in full precision, with the conditions that `model` adds to it."""
        contract = self.contract()
        model = load_wan(folder, config=contract.dit).float()
        load_speech(self.speech, model, self.audio)
        return model, contract


def load_vae(folder: str | Path) -> Autoencoder:
    """A frozen autoencoder in evaluation mode: what stage=autoencoder left, or a published one."""
    folder = Path(folder)
    if is_written_here(folder) or not folder.exists():
        folder = require(folder, stage="autoencoder")
    return load_autoencoder(folder)


def load_speech(folder: str | Path, model: DiT, audio: AudioConfig) -> None:
    """Load the weights of a trained speech encoder into the model, where that takes sound.

    Raises:
        ValueError: it was trained on other audio features.
    """
    if model.speech_encoder is None:
        return
    folder = require(folder, stage="speech")
    trained = AudioConfig.from_json(read_header(folder, kind="speech").config)
    if trained != audio:
        raise ValueError(f"{folder} was trained on {trained}, the run has {audio}. Train one: train.py stage=speech.")
    load_weights(folder, model.speech_encoder)


def load_dit(folder: str | Path, *, stage: str, base: Base | None = None) -> tuple[DiT, Contract]:
    """A DiT and the contract it was trained under; or, with `base`, also a published checkpoint with the conditions
    that `base` adds, in full precision."""
    folder = Path(folder)
    if base is not None and folder.exists() and not is_written_here(folder):
        return base.published(folder)
    folder = require(folder, stage=stage)
    header = read_header(folder, kind="dit")
    model = DiT(DiTConfig.from_json(header.config))
    load_weights(folder, model)
    return model, Contract.from_json(header.contract)


def with_actions(model: DiT, contract: Contract, names: Sequence[str]) -> tuple[DiT, Contract]:
    """The same model with a condition for actions, which adds nothing before it is trained; one that already has these
    stays as it is.

    Raises:
        ValueError: the model has other actions.
    """
    if contract.dit.names("action") == tuple(names):
        return model, contract
    if contract.dit.condition("action") is not None:
        raise ValueError(
            f"actions={list(names)} must be {list(contract.dit.names('action'))}, those that the model has already, in "
            f"{contract.dit.width('action')} numbers per latent frame. Start from a model without actions."
        )
    spec = ConditionSpec(
        name="action", rate="frame", width=contract.vae.temporal_stride * len(names), names=tuple(names)
    )
    dit = dataclasses.replace(contract.dit, conditions=(*contract.dit.conditions, spec))
    extended = DiT(dit)
    new = extended.frame_embeddings["action"].state_dict(prefix="frame_embeddings.action.")
    extended.load_state_dict(model.state_dict() | new)
    return extended, contract.replace(dit=dit)


def dit_header(contract: Contract) -> WeightsHeader:
    """What is stored beside the weights of a DiT."""
    return WeightsHeader(kind="dit", config=contract.dit.to_json(), contract=contract.to_json())


def dit_config(vae: AutoencoderConfig, audio: AudioConfig, model: Mapping[str, Any]) -> DiTConfig:
    """The shape of a DiT for an autoencoder and its audio features; fields of `model` override it.

    model: fields of `DiTConfig`, its conditions as fields of `ConditionSpec` by name; the widths of speech
    and keyframes may be left out.
    """
    widths = {"speech": audio.window_features(vae.temporal_stride), "keyframes": vae.latent_channels + 1}
    specs = specs_of(model.get("conditions") or {}, **widths)
    fitting = {"in_channels": vae.latent_channels, "speech_mels": audio.num_mels}
    lists = {"conditions": [spec.to_json() for spec in specs], "place_grid": tuple(model.get("place_grid", ()))}
    return DiTConfig.from_json({**fitting, **model, **lists})


def export_diffusers(weights: str, out: str) -> None:
    """Write the transformer of a bidirectional model with its voices and actions dropped.

    Raises:
        FileNotFoundError: the stage has not been run; the message has the command.
        ValueError: the model has parts that Wan does not have, for instance no text attention; all are listed.
    """
    model, _ = load_dit(weights, stage="bidirectional")
    save_diffusers(without_conditions(model), Path(out))
    log.info("%s: read it with diffusers.WanTransformer3DModel.from_pretrained", out)
