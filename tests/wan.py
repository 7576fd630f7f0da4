"""Wan families reduced in width and depth alone, as diffusers builds them and as gwm does, with the same weights."""

import dataclasses
from pathlib import Path
from typing import Any

import torch
import yaml
from torch import Tensor

from gwm.condition.inputs import Condition
from gwm.config import DiTConfig
from gwm.convert import to_gwm
from gwm.dit import DiT
from tests.tiny import lively

FAMILIES = ("wan2_1_1_3b", "wan2_1_14b", "wan2_1_i2v_14b", "wan2_2_ti2v_5b")
MODELS = Path(__file__).parents[1] / "configs" / "model"
HEADS, LAYERS = 2, 2
TEXT_TOKENS = 512  # diffusers takes the last 512 tokens for text, whatever comes before for the image
IMAGE_TOKENS = 7  # 257 in earnest
PATCHES = 4  # tokens per latent frame of `family_clip`
ROWS, COLUMNS = 4, 4


def published(family: str) -> DiTConfig:
    return DiTConfig(**yaml.safe_load((MODELS / f"{family}.yaml").read_text()))


def reduced(family: str) -> DiTConfig:
    """Two heads of the published width, two layers, the published ratio of MLP to width."""
    whole = published(family)
    dim = HEADS * whole.head_dim
    return dataclasses.replace(
        whole, dim=dim, num_heads=HEADS, num_layers=LAYERS, ffn_dim=round(whole.ffn_dim / whole.dim * dim)
    )


def diffusers_config(config: DiTConfig) -> dict[str, Any]:
    """The published config.json of the family, written down independently of `gwm.wan.geometry`."""
    image = {"image_dim": 1280, "added_kv_proj_dim": config.dim} if config.image_dim else {}
    return {
        "patch_size": (1, 2, 2),
        "num_attention_heads": config.num_heads,
        "attention_head_dim": 128,
        "in_channels": {(16, 0): 16, (16, 1280): 36, (48, 0): 48}[config.in_channels, config.image_dim],
        "out_channels": config.in_channels,
        "text_dim": 4096,
        "freq_dim": 256,
        "ffn_dim": config.ffn_dim,
        "num_layers": config.num_layers,
        "cross_attn_norm": True,
        "qk_norm": "rms_norm_across_heads",
        "eps": 1e-6,
        "rope_max_seq_len": 1024,
        **image,
    }


def in_diffusers(config: DiTConfig) -> Any:
    """A randomly initialised WanTransformer3DModel in which nothing is zero or one any more."""
    from diffusers import WanTransformer3DModel

    torch.manual_seed(1)
    model = lively(WanTransformer3DModel(**diffusers_config(config)).eval())
    for parameter in model.parameters():
        if (parameter == 1).all():
            torch.nn.init.normal_(parameter, mean=1, std=0.3)
    return model


def in_gwm(theirs: Any, config: DiTConfig) -> DiT:
    model = DiT(config)
    model.load_state_dict(to_gwm(theirs.state_dict(), config, source="test"))
    return model.eval()


def family_clip(config: DiTConfig, num_frames: int, batch_size: int = 2) -> tuple[Tensor, Tensor, Condition]:
    """Noised latents, one noise level per clip, and all conditions that the family has."""
    shape = (batch_size, num_frames)
    given = torch.randn(*shape, config.given_channels, ROWS, COLUMNS) if config.given_channels else None
    image = torch.randn(batch_size, IMAGE_TOKENS, config.image_dim) if config.image_dim else None
    condition = Condition(text=torch.randn(batch_size, TEXT_TOKENS, config.text_dim), image=image, given=given)
    sigma = torch.tensor([0.375, 0.8125])[:batch_size, None].expand(shape)
    return torch.randn(*shape, config.in_channels, ROWS, COLUMNS), sigma, condition
