"""Shapes of the published Wan autoencoders, from and to the `config.json` of diffusers, and their tensors' names."""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from gwm.files.json_text import JsonConfig
from gwm.files.tensors import read_json

# Config.json of diffusers may repeat these; another value is another architecture.
FIXED: dict[str, Any] = {"attn_scales": [], "dropout": 0.0, "scale_factor_temporal": 4}


@dataclass(frozen=True, kw_only=True, slots=True)
class WanVAEConfig(JsonConfig):
    """Shape of a causal 3-D convolutional autoencoder: the first latent frame is one pixel frame, each later one four.

    Its latents are normalised with `latents_mean` and `latents_std`, as the transformers were trained.
    """

    family: Literal["wan"] = "wan"
    latent_channels: int
    base_dim: int
    decoder_base_dim: int
    dim_mult: tuple[int, ...] = (1, 2, 4, 4)
    num_res_blocks: int = 2
    temporal_downsample: tuple[bool, ...] = (False, True, True)
    residual: bool = False  # averages around every change of resolution (Wan 2.2)
    patch: int = 1  # pixels folded into channels before the first layer, along each side
    latents_mean: tuple[float, ...]
    latents_std: tuple[float, ...]

    temporal_stride = 4
    working_side = None
    controls = ()

    def margin(self, side: int) -> int:
        return 0

    def __post_init__(self) -> None:
        counts = {"latents_mean": len(self.latents_mean), "latents_std": len(self.latents_std)}
        for name, count in counts.items():
            if count != self.latent_channels:
                raise ValueError(f"{name} has {count} entries, must have latent_channels={self.latent_channels}.")
        if len(self.temporal_downsample) != len(self.dim_mult) - 1 or sum(self.temporal_downsample) != 2:
            raise ValueError(
                f"temporal_downsample={self.temporal_downsample} must have an entry between each two of dim_mult="
                f"{self.dim_mult} and halve the frames twice: gwm's clock has four pixel frames per latent frame."
            )

    @property
    def spatial_stride(self) -> int:
        """Pixels per latent cell, along each side."""
        return self.patch * 2 ** len(self.temporal_downsample)


# Source: Wan2.1 wan/modules/vae.py.
WAN2_1_VAE = WanVAEConfig(
    latent_channels=16,
    base_dim=96,
    decoder_base_dim=96,
    latents_mean=(
        *(-0.7571, -0.7089, -0.9113, 0.1075, -0.1745, 0.9653, -0.1517, 1.5508),
        *(0.4134, -0.0715, 0.5517, -0.3632, -0.1922, -0.9497, 0.2503, -0.2921),
    ),
    latents_std=(
        *(2.8184, 1.4541, 2.3275, 2.6558, 1.2196, 1.7708, 2.6052, 2.0743),
        *(3.2687, 2.1526, 2.8652, 1.5579, 1.6382, 1.1253, 2.8251, 1.9160),
    ),
)
# Source: Wan2.2 wan/modules/vae2_2.py.
WAN2_2_VAE = WanVAEConfig(
    latent_channels=48,
    base_dim=160,
    decoder_base_dim=256,
    residual=True,
    patch=2,
    latents_mean=(
        *(-0.2289, -0.0052, -0.1323, -0.2339, -0.2799, 0.0174, 0.1838, 0.1557, -0.1382, 0.0542, 0.2813, 0.0891),
        *(0.1570, -0.0098, 0.0375, -0.1825, -0.2246, -0.1207, -0.0698, 0.5109, 0.2665, -0.2108, -0.2158, 0.2502),
        *(-0.2055, -0.0322, 0.1109, 0.1567, -0.0729, 0.0899, -0.2799, -0.1230, -0.0313, -0.1649, 0.0117, 0.0723),
        *(-0.2839, -0.2083, -0.0520, 0.3748, 0.0152, 0.1957, 0.1433, -0.2944, 0.3573, -0.0548, -0.1681, -0.0667),
    ),
    latents_std=(
        *(0.4765, 1.0364, 0.4514, 1.1677, 0.5313, 0.4990, 0.4818, 0.5013, 0.8158, 1.0344, 0.5894, 1.0901),
        *(0.6885, 0.6165, 0.8454, 0.4978, 0.5759, 0.3523, 0.7135, 0.6804, 0.5833, 1.4146, 0.8986, 0.5659),
        *(0.7069, 0.5338, 0.4889, 0.4917, 0.4069, 0.4999, 0.6866, 0.4093, 0.5709, 0.6065, 0.6415, 0.4944),
        *(0.5726, 1.2042, 0.5458, 1.6887, 0.3971, 1.0600, 0.3943, 0.5537, 0.5444, 0.4089, 0.7468, 0.7744),
    ),
)


def diffusers_arguments(config: WanVAEConfig) -> dict[str, Any]:
    """Arguments of diffusers' AutoencoderKLWan for this shape."""
    return {
        "z_dim": config.latent_channels,
        "base_dim": config.base_dim,
        "decoder_base_dim": config.decoder_base_dim,
        "dim_mult": list(config.dim_mult),
        "num_res_blocks": config.num_res_blocks,
        "temperal_downsample": list(config.temporal_downsample),
        "is_residual": config.residual,
        "in_channels": 3 * config.patch**2,
        "out_channels": 3 * config.patch**2,
        "patch_size": config.patch if config.patch > 1 else None,
        "scale_factor_spatial": config.spatial_stride,
        "latents_mean": list(config.latents_mean),
        "latents_std": list(config.latents_std),
    }


def read_vae_config(path: Path) -> WanVAEConfig:
    """The shape that diffusers' `config.json` describes; what it leaves out is as in Wan 2.1, as in diffusers.

    Raises:
        ValueError: it is not a Wan autoencoder's, or of an architecture that gwm does not have.
    """
    values = read_json(path)
    kind = values.get("_class_name")
    if kind != "AutoencoderKLWan":
        raise ValueError(
            f"{path} has _class_name={kind!r}, must be AutoencoderKLWan: it is no Wan autoencoder. Name a pipeline's "
            "folder, its vae/ or the autoencoder's file with vae=, or with base=, from which vae and text are taken."
        )
    given = {key: value for key, value in values.items() if not key.startswith("_") and key != "clip_output"}
    all_values = diffusers_arguments(WAN2_1_VAE) | FIXED | given
    all_values["decoder_base_dim"] = given.get("decoder_base_dim") or all_values["base_dim"]
    config = _from_arguments(all_values)
    rebuilt = diffusers_arguments(config) | FIXED
    other = {key: value for key, value in all_values.items() if key not in rebuilt or rebuilt[key] != value}
    if other:
        raise ValueError(f"{path} has {other}: unknown, or of another architecture than gwm's.")
    return config


def _from_arguments(values: Mapping[str, Any]) -> WanVAEConfig:
    return WanVAEConfig(
        latent_channels=values["z_dim"],
        base_dim=values["base_dim"],
        decoder_base_dim=values["decoder_base_dim"],
        dim_mult=tuple(values["dim_mult"]),
        num_res_blocks=values["num_res_blocks"],
        temporal_downsample=tuple(values["temperal_downsample"]),
        residual=values["is_residual"],
        patch=values["patch_size"] or 1,
        latents_mean=tuple(values["latents_mean"]),
        latents_std=tuple(values["latents_std"]),
    )


RESIDUAL_BLOCK = {
    "residual.0.": "norm1.",
    "residual.2.": "conv1.",
    "residual.3.": "norm2.",
    "residual.6.": "conv2.",
    "shortcut.": "conv_shortcut.",
}
OUTSIDE = {"conv1.": "quant_conv.", "conv2.": "post_quant_conv."}
ENDS = {"conv1.": "conv_in.", "head.0.": "norm_out.", "head.2.": "conv_out."}
MIDDLE = {
    "middle.0.": "mid_block.resnets.0.",
    "middle.1.": "mid_block.attentions.0.",
    "middle.2.": "mid_block.resnets.1.",
}
# Wan 2.1 numbers blocks and resamplers of all stages in one list; Wan 2.2 has a list of lists.
FLAT = re.compile(r"(down|up)samples\.(\d+)\.(.+)")
NESTED = re.compile(r"(down|up)samples\.(\d+)\.\1samples\.(\d+)\.(.+)")


def diffusers_key(key: str, config: WanVAEConfig) -> str:
    """The name in diffusers; a name that Wan does not have stays as it is.

    Source: Wan2.1 wan/modules/vae.py, Wan2.2 wan/modules/vae2_2.py; diffusers 0.42 autoencoder_kl_wan.py.
    """
    outside = _renamed(key, OUTSIDE)
    if outside != key:
        return outside
    half, _, rest = key.partition(".")
    found = (NESTED if config.residual else FLAT).fullmatch(rest)
    if found is None:
        return f"{half}.{_renamed(_renamed(rest, ENDS), MIDDLE)}"
    if config.residual:
        way, stage, place, inner = found.groups()
        return f"{half}.{way}_blocks.{stage}.{_in_stage(way, int(place), inner, config)}"
    way, place, inner = found.groups()
    if way == "down":
        return f"{half}.down_blocks.{place}.{_renamed(inner, RESIDUAL_BLOCK)}"
    stage, place = divmod(int(place), config.num_res_blocks + 2)  # blocks, and the upsampler after them
    return f"{half}.up_blocks.{stage}.{_in_stage('up', place, inner, config)}"


def _in_stage(way: str, place: int, inner: str, config: WanVAEConfig) -> str:
    num_blocks = config.num_res_blocks + (way == "up")
    if place < num_blocks:
        return f"resnets.{place}.{_renamed(inner, RESIDUAL_BLOCK)}"
    return f"{way}sampler{'' if config.residual else 's.0'}.{inner}"


def _renamed(name: str, starts: dict[str, str]) -> str:
    for old, new in starts.items():
        if name.startswith(old):
            rest = name.removeprefix(old)
            return new + (_renamed(rest, RESIDUAL_BLOCK) if starts is MIDDLE else rest)
    return name
