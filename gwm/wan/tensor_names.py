"""What every tensor of a Wan transformer is called: here, in the original release and in diffusers."""

from collections.abc import Mapping
from typing import Literal, NamedTuple

import torch
from torch import Tensor

from gwm.block import MLP, PROJECTIONS
from gwm.config import DiTConfig
from gwm.dit import DiT
from gwm.wan.state_dict import described

Layout = Literal["original", "diffusers"]


class Name(NamedTuple):
    gwm: str
    original: str
    diffusers: str


# Modules and parameters outside the blocks. Source: Wan2.1 wan/modules/model.py; diffusers 0.42 transformer_wan.py.
OUTER = (
    Name("patch_embedding", "patch_embedding", "patch_embedding"),
    Name("time_embedding.0", "time_embedding.0", "condition_embedder.time_embedder.linear_1"),
    Name("time_embedding.2", "time_embedding.2", "condition_embedder.time_embedder.linear_2"),
    Name("time_projection.1", "time_projection.1", "condition_embedder.time_proj"),
    Name("token_embeddings.text.0", "text_embedding.0", "condition_embedder.text_embedder.linear_1"),
    Name("token_embeddings.text.2", "text_embedding.2", "condition_embedder.text_embedder.linear_2"),
    Name("token_embeddings.image.0", "img_emb.proj.0", "condition_embedder.image_embedder.norm1"),
    Name("token_embeddings.image.1", "img_emb.proj.1", "condition_embedder.image_embedder.ff.net.0.proj"),
    Name("token_embeddings.image.3", "img_emb.proj.3", "condition_embedder.image_embedder.ff.net.2"),
    Name("token_embeddings.image.4", "img_emb.proj.4", "condition_embedder.image_embedder.norm2"),
    Name("token_embeddings.image.place", "img_emb.emb_pos", "condition_embedder.image_embedder.pos_embed"),
    Name("modulation_out", "head.modulation", "scale_shift_table"),
    Name("head", "head.head", "proj_out"),
)
ATTENTION = (
    *(Name(name, name, "to_out.0" if name == "o" else f"to_{name}") for name in PROJECTIONS),
    Name("norm_q", "norm_q", "norm_q"),
    Name("norm_k", "norm_k", "norm_k"),
)
IMAGE = (
    Name("image.k", "k_img", "add_k_proj"),
    Name("image.v", "v_img", "add_v_proj"),
    Name("image.norm_k", "norm_k_img", "norm_added_k"),
)
BLOCK = (
    *(Name(f"attention.{own}", f"self_attn.{old}", f"attn1.{new}") for own, old, new in ATTENTION),
    *(Name(f"text_attention.{own}", f"cross_attn.{old}", f"attn2.{new}") for own, old, new in ATTENTION + IMAGE),
    Name("text_norm", "norm3", "norm2"),  # numbered by creation in the original, by use in diffusers
    *(Name(f"ffn.{own}", f"ffn.{own}", f"ffn.net.{new}") for own, new in zip(MLP, ("0.proj", "2"), strict=True)),
    Name("modulation", "modulation", "scale_shift_table"),
)


def foreign_key(key: str, layout: Layout) -> str | None:
    """The name that gwm's tensor `key` has in `layout`; None: Wan has no such tensor."""
    prefix, table = "", OUTER
    if key.startswith("control."):  # VACE, whose original release is not read
        return _control_key(key.removeprefix("control.")) if layout == "diffusers" else None
    if key.startswith("blocks."):
        _, block, key = key.split(".", 2)
        prefix, table = f"blocks.{block}.", BLOCK
    for name in table:
        if key == name.gwm or key.startswith(name.gwm + "."):
            foreign = name.original if layout == "original" else name.diffusers
            return prefix + foreign + key.removeprefix(name.gwm)
    return None


def _control_key(key: str) -> str:
    """Source: diffusers 0.42 transformer_wan_vace.py."""
    if key.startswith("before."):
        return f"vace_blocks.0.proj_in.{key.removeprefix('before.')}"
    if key.startswith("after."):
        _, block, rest = key.split(".", 2)
        return f"vace_blocks.{block}.proj_out.{rest}"
    return f"vace_{foreign_key(key, 'diffusers')}"


def foreign_shape(key: str, shape: torch.Size, config: DiTConfig) -> torch.Size:
    """The shape that gwm's tensor `key` has in both layouts: the same numbers in the same order."""
    if key == "patch_embedding.weight":
        return torch.Size((config.dim, config.in_channels + config.given_channels, 1, config.patch, config.patch))
    if key == "control.patch_embedding.weight":
        return torch.Size((config.dim, config.control_channels, 1, config.patch, config.patch))
    if key.rpartition(".")[2] in ("modulation", "modulation_out", "place"):
        return torch.Size((1, *shape))
    return shape


def expected_tensors(config: DiTConfig, layout: Layout) -> dict[str, tuple[str, Tensor]]:
    """For every tensor that a checkpoint of this geometry has: gwm's key and an empty tensor of the foreign shape.

    Raises:
        ValueError: the geometry has parts that Wan does not have; all their tensors are listed.
    """
    with torch.device("meta"):
        own = DiT(config).state_dict()
        names = {key: foreign_key(key, layout) for key in own}
        missing = sorted(key for key, name in names.items() if name is None)
        if missing:
            raise ValueError(
                f"{layout} layout has no place for {missing}: only what Wan itself has can be written there. Keep "
                "models with conditions of gwm's own in gwm's format."
            )
        return {
            name: (key, torch.empty(foreign_shape(key, own[key].shape, config)))
            for key, name in names.items()
            if name is not None
        }


def layout_of(weights: Mapping[str, Tensor], *, source: str) -> Layout:
    """Which of the two layouts the names belong to.

    Raises:
        ValueError: neither.
    """
    if "head.head.weight" in weights:
        return "original"
    if "condition_embedder.time_proj.weight" in weights:
        return "diffusers"
    raise ValueError(
        f"{source} has neither head.head.weight (original release) nor condition_embedder.time_proj.weight "
        f"(diffusers): it is no Wan transformer. {described(weights)}"
    )
