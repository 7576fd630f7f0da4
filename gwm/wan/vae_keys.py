"""What every tensor of the original release's autoencoders is called in diffusers."""

import re

from gwm.wan.vae_config import WanVAEConfig

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
