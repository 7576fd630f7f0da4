"""Benchmark cases: a model's shape, the picture's size, and the chunks of the stream. Nothing is downloaded."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from omegaconf import OmegaConf
from torch import nn

from gwm.autoencoders.families import build_autoencoder
from gwm.autoencoders.haar import HaarConfig
from gwm.autoencoders.protocol import Autoencoder
from gwm.chunks import ChunkPattern
from gwm.condition.spec import ConditionSpec
from gwm.config import AudioConfig, DiTConfig
from gwm.contract import Contract
from gwm.dit import DiT
from gwm.resolution import Resolution

AUDIO = AudioConfig()
FAR = 10**6  # a horizon that no benchmark reaches: baselines do not move their sinks
DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}
SIGMAS = {1: (1.0,), 2: (1.0, 0.6), 4: (1.0, 0.9, 0.75, 0.5)}

MODELS = Path(__file__).parents[2] / "configs" / "model"
NOT_SHAPE = ("defaults", "place_grid")  # conditions are declared here; places fit pictures of one size alone


def model_shape(name: str) -> dict[str, Any]:
    """The shape that configs/model has under this name, without its conditions."""
    values: Any = OmegaConf.to_container(OmegaConf.load(MODELS / f"{name}.yaml"))
    shape = values["model"] if "model" in values else values  # published models name their encoders as well
    return {key: value for key, value in shape.items() if key not in NOT_SHAPE}


def prompted(width: int) -> tuple[ConditionSpec, ...]:
    """A text condition of this width, and no other one."""
    return (ConditionSpec(name="text", rate="tokens", width=width, encoder="text"),)


# What characters that are trained here have in common. All other shapes take no sound.
CHARACTER: dict[str, Any] = {
    "in_channels": 64,
    "around_reference": True,
    "conditions": tuple(
        ConditionSpec(name=name, rate="frame", width=AUDIO.window_features(4), encoder="speech", drop_rate=drop_rate)
        for name, drop_rate in (("agent", 0.1), ("user", 0.0))
    ),
    "speech_mels": AUDIO.num_mels,
}
SHAPES: dict[str, dict[str, Any]] = {
    "nano": CHARACTER | model_shape("nano"),
    "character": {"dim": 384, "ffn_dim": 1536, "num_heads": 6, "num_layers": 8, **CHARACTER},
    "one_layer": {"dim": 32, "ffn_dim": 64, "num_heads": 2, "num_layers": 1, "in_channels": 4},
    "small_wan": {"dim": 192, "ffn_dim": 768, "num_heads": 6, "num_layers": 4, "conditions": prompted(64)},
    "wan2_1_1_3b": {**model_shape("wan2_1_1_3b"), "conditions": prompted(4096)},
    "wan2_2_5b": {**model_shape("wan2_2_ti2v_5b"), "conditions": prompted(4096)},
}


@dataclass(frozen=True, kw_only=True)
class Case:
    """A model of `SHAPES` at a size; `window_frames` counts latent frames that a chunk sees, itself and one sink
    included, and is rounded up to whole chunks after the sink."""

    shape: str
    height: int  # pixels
    width: int
    chunk_frames: int = 1
    window_frames: int = 6
    steps: int = 2
    pixels_per_latent: int = 8
    decoder: bool = True
    text_tokens: int = 512  # of models with text
    dtype: str = "float32"

    def __post_init__(self) -> None:
        if self.shape not in SHAPES:
            raise ValueError(f"shape={self.shape!r} must be one of {sorted(SHAPES)}.")
        if self.dtype not in DTYPES:
            raise ValueError(f"dtype={self.dtype!r} must be one of {sorted(DTYPES)}.")
        if self.steps not in SIGMAS:
            raise ValueError(f"steps={self.steps} must be one of {sorted(SIGMAS)}.")

    @property
    def name(self) -> str:
        size = f"{self.height}x{self.width}"
        return f"{self.shape} {size} c{self.chunk_frames} w{self.window_frames} s{self.steps}+1 {self.dtype}"

    @property
    def grid(self) -> tuple[int, int]:
        """Rows and columns of the latent grid."""
        return self.height // self.pixels_per_latent, self.width // self.pixels_per_latent

    @property
    def patches(self) -> int:
        """Tokens per latent frame."""
        return self.grid[0] // 2 * (self.grid[1] // 2)

    def contract(self) -> Contract:
        """The stream of this case, on its grid of latents whatever the autoencoder's stride."""
        dit = DiTConfig(**SHAPES[self.shape])
        window = 1 - (1 - self.window_frames) // self.chunk_frames  # whole chunks, rounded up, after the sink
        channels = dit.in_channels
        return Contract(
            dit=dit,
            vae=HaarConfig(latent_channels=channels, latents_mean=(0.0,) * channels, latents_std=(1.0,) * channels),
            audio=AUDIO,
            pattern=ChunkPattern(chunk_frames=self.chunk_frames, window_chunks=window),
            resolution=Resolution(*(HaarConfig.spatial_stride * cells for cells in self.grid)),
            sigmas=SIGMAS[self.steps],
            solver="renoise",
            context="clean",
            horizon_frames=FAR // self.chunk_frames * self.chunk_frames,
        )


def random_models(contract: Contract, *, device: torch.device, dtype: torch.dtype) -> tuple[DiT, Autoencoder]:
    """Models with weights of a usual size, made on the device: speed does not depend on what they learnt."""
    with torch.device(device):
        models = DiT(contract.dit), build_autoencoder(contract.vae)
    for model in models:
        for parameter in model.parameters():
            nn.init.normal_(parameter, std=0.02)
        model.eval().requires_grad_(False)
    models[0].to(dtype)
    models[1].compute_in(dtype)
    return models
