"""A published pipeline of the hub, sampled as it is: a whole clip from noise, of a text, an image, or both."""

import dataclasses
import logging
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Bool, Float, UInt8
from torch import Tensor

from gwm.block import MaskedClip
from gwm.chunks import whole_clip
from gwm.condition.inputs import Conditions
from gwm.config import AudioConfig
from gwm.contract import Contract
from gwm.control import CONTROL
from gwm.convert import load_wan
from gwm.guidance import Guidance, guided_velocity
from gwm.media.framing import Framing
from gwm.media.pixels import to_float, to_uint8
from gwm.media.video import write_video
from gwm.no_text import padded_text
from gwm.resolution import Resolution
from gwm.sampler import Velocity, frame_noise, sample
from gwm.wan.encoders import MAX_TOKENS, CLIPImage, control_channels, image_channels
from gwm.wan.geometry import read_geometry
from gwm.wan.tiles import check_tile, decode_tiled
from gwm.wan.vae import WanVAE, load_wan_vae
from gwm.wan.vae_config import read_vae_config
from serve.artifact import Artifact, chosen_dtype
from serve.many_steps import SHIFT, SamplerName, guided_by, led_away, passes_shown, placed
from serve.memory import check_clip_memory
from serve.prompts import Texts
from serve.request import ClipRequest, ImageUse, read_portrait

log = logging.getLogger(__name__)

TEXT, IMAGE = ["text"], ["text", "image", "given"]  # conditions of text-to-video and image-to-video models
LOW_RESOLUTION = 480 * 832  # px in a frame


@dataclass(frozen=True, kw_only=True)
class Release:
    """How the publishers sample a model. Source: generate.py and wan/configs of Wan2.1 and Wan2.2."""

    resolution: Resolution
    num_frames: int  # pixel frames of a clip
    fps: int
    image: ImageUse
    steps: int = 50
    sampler: SamplerName = "unipc"  # as their diffusers folders have it
    shift: float = SHIFT  # of noise levels
    low_shift: float = SHIFT  # likewise, where a frame has at most LOW_RESOLUTION pixels


T2V = Release(resolution=Resolution(480, 832), num_frames=81, fps=16, image="refused")  # Wan 2.1
I2V = Release(resolution=Resolution(480, 832), num_frames=81, fps=16, image="required", steps=40, low_shift=3.0)
FLF2V = Release(
    resolution=Resolution(720, 1280), num_frames=81, fps=16, image="first_and_last", shift=16.0, low_shift=16.0
)
VACE = Release(resolution=Resolution(480, 832), num_frames=81, fps=16, image="refused", shift=16.0, low_shift=16.0)
TI2V = Release(resolution=Resolution(704, 1280), num_frames=121, fps=24, image="optional")  # Wan 2.2
TI2V_CHANNELS = 48  # latent channels, which only this model has


@dataclass(frozen=True)
class Clip:
    """The parts of a whole clip before it is sampled."""

    condition: Conditions
    first: Float[Tensor, "1 1 c h w"] | None = None  # clean latents of the first frame; None: that is generated too


def is_published(folder: str) -> bool:
    """Whether this is a pipeline of the hub, with its transformer, autoencoder and text encoder."""
    return (Path(folder) / "transformer").is_dir() and (Path(folder) / "vae").is_dir()


def write_published(request: ClipRequest, *, device: torch.device) -> None:
    """Write the clip that a published model makes of the prompt and, where it takes one, the image.

    Raises:
        FileNotFoundError: a part of the pipeline is missing.
        ValueError: what the model needs is not given, or there is what it does not take.
        RuntimeError: the clip does not fit into memory.
    """
    release = release_of(request.artifact)
    request.check_published(release.image)
    contract = contract_of(request, release)
    if request.tile is not None:
        check_tile(request.tile, stride=contract.vae.spatial_stride)
    pictures = [
        read_portrait(path, Framing(contract.resolution), crop=bool(request.crop))
        for path in pictures_of(request, release)
    ]
    encoder = CLIPImage(request.artifact) if contract.dit.width("image") else None
    texts = Texts(request.text_encoder, request.artifact)
    text = texts.tokens(request.prompt or "")
    model = load_published(request, contract, device=device)
    check_clip_memory(model, "a clip of ", lower="seconds")
    if model.guided is not None or request.negative_prompt is not None:
        model = led_away(model, texts, request.negative_prompt or "")
    clip = clip_of(model, text, pictures, encoder)
    if contract.dit.control_layers:
        clip = with_control(clip, model)
    with passes_shown(model, chunks=1):
        latents = sample_clip(model, clip, seed=request.seed)
    frames = to_uint8(_decoded(wan_vae(model), latents, tile=request.tile)[0])
    write_video(request.out, frames, None, fps=release.fps)
    log.info("%s: %d frames of %dx%d px", request.out, *frames.shape[:3])


def _decoded(vae: WanVAE, latents: Float[Tensor, "1 f c h w"], *, tile: int | None) -> Float[Tensor, "1 t 3 _ _"]:
    """Pixel frames of a clip, in tiles of so many px; None: whole."""
    x = latents.to(vae.mean)
    if tile is None:
        return vae.decode_pixels(x)[0]
    return decode_tiled(lambda part: vae.decode_pixels(part)[0], x, tile=tile, stride=vae.config.spatial_stride)


def pictures_of(request: ClipRequest, release: Release) -> list[str]:
    """Paths of the pictures that the model is given: none, the first, or the first and the last.

    Raises:
        ValueError: as `ClipRequest.first_and_last`.
    """
    if release.image == "first_and_last":
        return request.first_and_last(_num_frames(request, release), release.fps)
    return [] if request.image is None else [request.image]


def _num_frames(request: ClipRequest, release: Release) -> int:
    """Pixel frames that are asked for; a first and a last picture are two."""
    if request.seconds is None:
        return release.num_frames
    return max(2 if release.image == "first_and_last" else 1, round(request.seconds * release.fps))


def release_of(folder: str) -> Release:
    """Which kind of model the folder has, by the shape of its transformer.

    Raises:
        ValueError: it is a kind that is not sampled here.
    """
    if (Path(folder) / "transformer_2").is_dir():
        raise ValueError(
            f"artifact={folder} must have one transformer, and has transformer/ and transformer_2/, so it is Wan 2.2 "
            "A14B: sampling by two models is not implemented. Take a Wan 2.1 or a Wan 2.2 TI2V folder."
        )
    config = read_geometry(Path(folder) / "transformer" / "config.json")
    names = [spec.name for spec in config.conditions]
    if names == IMAGE:
        return FLF2V if config.places else I2V
    if names != TEXT:
        raise ValueError(
            f"artifact={folder} has conditions {names}, must have {TEXT} (text to video) or {IMAGE} (image to video, "
            "Wan 2.1). Take such a folder."
        )
    if config.control_layers:
        return VACE
    return TI2V if config.in_channels == TI2V_CHANNELS else T2V


def contract_of(request: ClipRequest, release: Release) -> Contract:
    """How a clip of 1 + 4 k pixel frames, at least those that are asked for, is sampled.

    Raises:
        ValueError: height or width cannot be divided into patches, or the parts do not fit each other.
    """
    folder = Path(request.artifact)
    vae = read_vae_config(folder / "vae" / "config.json")
    frames = 1 + -(-(_num_frames(request, release) - 1) // vae.temporal_stride)
    resolution = release.resolution if request.resolution is None else Resolution.parse(request.resolution)
    shift = release.low_shift if resolution.height * resolution.width <= LOW_RESOLUTION else release.shift
    asked = request.sampling
    sampling = dataclasses.replace(
        asked,
        steps=asked.steps or release.steps,
        shift=asked.shift or shift,
        sampler=asked.sampler or release.sampler,
    )
    return Contract(
        dit=read_geometry(folder / "transformer" / "config.json"),
        vae=vae,
        audio=AudioConfig(),
        pattern=whole_clip(frames, first_frames=0),
        resolution=resolution,
        sigmas=sampling.levels(),
        solver=sampling.solver,
        context="noisy",  # nothing comes after the clip
        horizon_frames=frames - 1,
    )


def load_published(request: ClipRequest, contract: Contract, *, device: torch.device) -> Artifact:
    """The folder's transformer, computed in the request's `dtype`, and its autoencoder in float32.

    Raises:
        FileNotFoundError: a part is missing.
        ValueError: guidance that cannot be, or as `load_wan` and `load_wan_vae`.
    """
    folder, on_gpu = Path(request.artifact), device.type == "cuda"
    model = load_wan(folder, config=contract.dit, dtype=chosen_dtype(request.dtype, device))
    made = placed(device, Artifact(contract, model, load_wan_vae(folder)))
    if on_gpu:
        model.pack()
    return guided_by(made, request.sampling)


@torch.no_grad()
def clip_of(
    artifact: Artifact,
    text: Float[Tensor, "s t"],
    pictures: Sequence[UInt8[np.ndarray, "h w 3"]],
    encoder: CLIPImage | None,
) -> Clip:
    """Conditions of a clip: the text, and of pictures what the model takes. Wan 2.1 I2V and FLF2V: tokens of CLIP, and
    a mask and latents beside the noised channels. Wan 2.2 TI2V: latents of the first frame."""
    tokens, vae = {"text": padded_text(text, MAX_TOKENS)[None]}, wan_vae(artifact)
    if not pictures:
        return Clip(on_device(Conditions(tokens=tokens), artifact))
    shown = [to_float(picture)[None].to(vae.mean) for picture in pictures]
    if encoder is None:
        return Clip(on_device(Conditions(tokens=tokens), artifact), first=vae.encode_pixels(shown[0][:, None]))
    tokens["image"] = torch.cat([encoder(picture) for picture in pictures])[None]
    given = torch.cat(image_channels(vae, shown[0], artifact.contract.horizon_frames, *shown[1:]), dim=1)
    return Clip(on_device(Conditions(tokens=tokens, channels={"given": given}), artifact))


@torch.no_grad()
def with_control(
    clip: Clip,
    artifact: Artifact,
    pictures: UInt8[np.ndarray, "t h w 3"] | None = None,
    drawn: Bool[np.ndarray, "t h w"] | None = None,
) -> Clip:
    """The clip with VACE's channels of a film, and of which of its px are drawn anew; None: all of a grey one."""
    contract, vae = artifact.contract, wan_vae(artifact)
    if pictures is None or drawn is None:
        num_frames = 1 + vae.config.temporal_stride * contract.horizon_frames
        shown = vae.mean.new_zeros(num_frames, 3, *contract.resolution.shape)
        where = torch.ones(num_frames, *contract.resolution.shape, dtype=torch.bool, device=shown.device)
    else:
        shown = to_float(pictures).to(vae.mean)
        where = torch.from_numpy(drawn).to(shown.device)
    channels = {CONTROL: control_channels(vae, shown[None], where[None])}
    given = on_device(Conditions(channels=channels), artifact).channels
    return dataclasses.replace(clip, condition=dataclasses.replace(clip.condition, channels=given))


@torch.no_grad()
def sample_clip(artifact: Artifact, clip: Clip, *, seed: int, first: int = 0) -> Float[Tensor, "1 f c h w"]:
    """Latents of a whole clip in float32, by guided steps. Where it has VACE's channels, it is as long as they are.

    first: of the clip's pictures in a film, each of whose windows has noise of its own.
    """
    contract, control = artifact.contract, clip.condition.channels.get(CONTROL)
    frames = contract.horizon_frames + 1 if control is None else control.shape[1]
    shape = (1, frames, contract.dit.in_channels, *contract.latent_grid)
    noise = frame_noise(shape, seed=seed, frame=first, step=0).to(artifact.dit.head.weight.device)
    x = sample(clip_velocity(artifact, clip), [noise], sigmas=contract.sigmas, solver=contract.solver)
    return with_first(clip, x)


def with_first(clip: Clip, x: Float[Tensor, "1 f c h w"]) -> Float[Tensor, "1 f c h w"]:
    """Latents with the clean first frame, where there is one."""
    return x if clip.first is None else torch.cat([clip.first.to(x), x[:, 1:]], dim=1)


def clip_velocity(artifact: Artifact, clip: Clip) -> Velocity:
    """Guided velocity of a whole clip, in float32; every frame sees every other one.

    A clean first frame has noise level 0 in every step and stays as it is.

    Source: Wan2.2 wan/textimage2video.py, i2v.
    """
    weight, whole = artifact.dit.head.weight, MaskedClip(None)
    guidance, condition = Guidance(), clip.condition
    if artifact.guided is not None:
        guidance = artifact.guided.guidance
        condition = dataclasses.replace(condition, nothing=artifact.guided.nothing)

    def velocity(x: Tensor, sigma: float) -> Tensor:
        levels = x.new_full(x.shape[:2], sigma)
        if clip.first is not None:
            levels[:, 0] = 0
        seen = with_first(clip, x).to(weight.dtype)
        positions = torch.arange(x.shape[1], device=weight.device)

        def predict(condition: Conditions) -> Tensor:
            return artifact.dit(seen, levels, condition, positions=positions, context=whole).velocity.float()

        return guided_velocity(predict, condition, guidance)

    return velocity


def on_device(condition: Conditions, artifact: Artifact) -> Conditions:
    return condition.map(lambda x: x.to(artifact.dit.head.weight))


def wan_vae(artifact: Artifact) -> WanVAE:
    assert isinstance(artifact.vae, WanVAE), "as `load_published` made it"
    return artifact.vae
