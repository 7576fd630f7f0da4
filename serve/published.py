"""A text-to-video pipeline of the hub, sampled as it is: a whole clip from noise, without a reference image."""

import logging
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float, UInt8
from torch import Tensor

from gwm.chunks import whole_clip
from gwm.condition.inputs import Conditions
from gwm.config import AudioConfig
from gwm.contract import Contract
from gwm.convert import load_wan
from gwm.media.pixels import to_uint8
from gwm.media.video import write_video
from gwm.no_text import padded_text
from gwm.resolution import Resolution
from gwm.wan.text import MOST_TOKENS
from gwm.wan.vae import WanVAE, load_wan_vae
from serve.artifact import Artifact
from serve.many_steps import guided_by, led_away, passes_shown, placed
from serve.parallel.division import rollout_of
from serve.prompts import Texts
from serve.request import ClipRequest

log = logging.getLogger(__name__)

NUM_FRAMES = 81  # pixel frames of a clip in Wan's own examples


def is_published(folder: str) -> bool:
    """Whether this is a pipeline of the hub, with its transformer, autoencoder and text encoder."""
    return (Path(folder) / "transformer").is_dir() and (Path(folder) / "vae").is_dir()


def write_published(request: ClipRequest, *, device: torch.device) -> None:
    """The clip that a published model makes of a prompt.

    Raises:
        FileNotFoundError: a part of the pipeline is missing.
        ValueError: there is no prompt, or there is what the model is not given.
    """
    request.check_text_alone()
    texts = Texts(request.text_encoder, request.artifact)
    made = load_published(request, device=device)
    if made.guided is not None or request.negative_prompt is not None:
        made = led_away(made, texts, request.negative_prompt or "")
    text = padded_text(texts.tokens(request.prompt or ""), MOST_TOKENS)[None]
    with passes_shown(made, chunks=1):
        frames = whole_clip_frames(made, text, seed=request.seed)
    write_video(request.out, frames, None, fps=fps_of(made.contract.vae.latent_channels))
    log.info("%s: %d frames of %dx%d px", request.out, *frames.shape[:3])


def load_published(request: ClipRequest, *, device: torch.device) -> Artifact:
    """The model on a clip of 1 + 4 k pixel frames, at least those that are asked for.

    Raises:
        FileNotFoundError: a part is missing.
        ValueError: the transformer has other conditions than a text, or height or width cannot be divided into patches.
    """
    dtype = torch.bfloat16 if device.type == "cuda" else torch.float32
    folder = Path(request.artifact)
    model, autoencoder = load_wan(folder, dtype=dtype), load_wan_vae(folder)
    names = [spec.name for spec in model.config.conditions]
    if names != ["text"]:
        raise ValueError(
            f"artifact={folder} has conditions {names}, must have text alone: published models that are given an image "
            "are sampled behind their adaptation. Run stage=bidirectional, and name its weights."
        )
    fps = fps_of(autoencoder.config.latent_channels)
    num_frames = NUM_FRAMES if request.seconds is None else max(1, round(request.seconds * fps))
    frames = 1 + -(-(num_frames - 1) // autoencoder.config.temporal_stride)
    contract = Contract(
        dit=model.config,
        vae=autoencoder.config,
        audio=AudioConfig(),
        pattern=whole_clip(frames, first_frames=0),
        resolution=Resolution(request.height, request.width),
        sigmas=request.sampling.levels(),
        solver="ode",
        context="noisy",  # nothing comes after the clip
        horizon_frames=frames - 1,
    )
    return guided_by(placed(device, Artifact(contract, model, autoencoder)), request.sampling)


@torch.no_grad()
def whole_clip_frames(artifact: Artifact, text: Float[Tensor, "1 s t"], *, seed: int) -> UInt8[np.ndarray, "f h w 3"]:
    """Pixel frames of a clip without a reference image: the stream's only chunk."""
    rollout = rollout_of(artifact.dit, artifact.contract, None, artifact.guided)
    condition = Conditions(tokens={"text": text.to(rollout.reference)})
    rollout.start(None, condition, seed=seed)
    assert isinstance(artifact.vae, WanVAE), "as `load_published` made it"
    return to_uint8(artifact.vae.decode_pixels(rollout.step(condition).to(artifact.vae.mean))[0][0])


def fps_of(latent_channels: int) -> int:
    """Pixel frames per second of a published model with so many. Source: sample_fps in Wan2.1 and Wan2.2."""
    return 16 if latent_channels == 16 else 24
