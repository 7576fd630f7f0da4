"""The smallest models and conditions that still have every part: shared by the tests of gwm, train and distill."""

import dataclasses

import torch
from torch import Tensor, nn

from gwm.autoencoders.haar import HaarAutoencoder, HaarConfig
from gwm.chunks import ChunkPattern
from gwm.condition.inputs import Conditions
from gwm.condition.spec import ConditionSpec, in_order
from gwm.config import AudioConfig, DiTConfig
from gwm.contract import Contract
from gwm.dit import DiT
from gwm.resolution import Resolution

GRID = (4, 6)  # rows and columns of latents: on a square grid, rows and columns could be exchanged
PATCHES = 6  # tokens per latent frame: the grid in patches of 2 x 2
RESOLUTION = Resolution(GRID[0] * HaarConfig.spatial_stride, GRID[1] * HaarConfig.spatial_stride)
AUDIO = AudioConfig(num_mels=3, hops_per_frame=1)
SPEECH = AUDIO.window_features(HaarConfig.temporal_stride)
VAE_SHAPE = HaarConfig(latent_channels=4, channels=(4, 6, 8), latents_mean=(0.1,) * 4, latents_std=(0.7,) * 4)


def voices(width: int) -> tuple[ConditionSpec, ...]:
    """Both sides of a conversation; the model's own can be dropped."""
    agent = ConditionSpec(name="agent", rate="frame", width=width, encoder="speech", drop_rate=0.1)
    return agent, ConditionSpec(name="user", rate="frame", width=width, encoder="speech")


def declared(
    config: DiTConfig, *, text: int = 0, image: int = 0, given: int = 0, action: int = 0, names: tuple[str, ...] = ()
) -> DiTConfig:
    """The config with these conditions more, by width."""
    widths = {"text": ("tokens", text, "text"), "image": ("tokens", image, "image")}
    widths |= {"given": ("channels", given, "linear"), "action": ("frame", action, "linear")}
    more = [
        ConditionSpec(name=name, rate=rate, width=width, encoder=encoder, names=names if name == "action" else ())
        for name, (rate, width, encoder) in widths.items()
        if width
    ]
    return dataclasses.replace(config, conditions=in_order([*config.conditions, *more]))


def keyframed(config: DiTConfig) -> DiTConfig:
    """The config with known frames as a condition."""
    spec = ConditionSpec(
        name="keyframes", rate="channels", width=config.in_channels + 1, encoder="keyframes", drop_rate=0.1
    )
    return dataclasses.replace(config, conditions=in_order([*config.conditions, spec]))


DIT = DiTConfig(
    in_channels=4,
    dim=32,
    ffn_dim=48,
    num_heads=2,
    num_layers=2,
    conditions=voices(SPEECH),
    speech_mels=3,
    freq_dim=16,
)
FAR = 10**6  # a horizon that no test reaches


def lively(model: nn.Module) -> nn.Module:
    """Give what starts at zero random values too, so that every path carries signal."""
    for parameter in model.parameters():
        if not parameter.any():
            nn.init.normal_(parameter, std=0.3)
    return model


def tiny_dit(config: DiTConfig = DIT) -> DiT:
    model = lively(DiT(config))
    assert isinstance(model, DiT)
    return model


def tiny_vae(config: HaarConfig = VAE_SHAPE) -> HaarAutoencoder:
    vae = lively(HaarAutoencoder(config))
    assert isinstance(vae, HaarAutoencoder)
    return vae


def trainable(model: nn.Module) -> list[nn.Parameter]:
    """What an optimizer would move: all but the speech encoder."""
    return [parameter for parameter in model.parameters() if parameter.requires_grad]


def latents(num_frames: int, batch_size: int = 2) -> Tensor:
    return torch.randn(batch_size, num_frames, DIT.in_channels, *GRID)


def speech(num_frames: int, batch_size: int = 2) -> Conditions:
    agent, user = torch.randn(2, batch_size, num_frames, SPEECH)
    return Conditions(frame={"agent": agent, "user": user})


def contract(num_frames: int = 6, **changes: object) -> Contract:
    """A renoising two-step student on clips of `num_frames` after the reference image."""
    facts = {
        "dit": DIT,
        "vae": VAE_SHAPE,
        "audio": AUDIO,
        "pattern": ChunkPattern(chunk_frames=1, window_chunks=4, sink_chunks=1, first_frames=1),
        "resolution": RESOLUTION,
        "sigmas": (1.0, 0.6),
        "solver": "renoise",
        "context": "clean",
        "horizon_frames": num_frames,
    }
    return Contract(**(facts | changes))


def with_eyelids(rules: Contract) -> Contract:
    """Of a model with blinks as a condition."""
    dit = declared(rules.dit, action=rules.vae.temporal_stride, names=("eyeBlinkLeft",))
    return rules.replace(dit=dit)
