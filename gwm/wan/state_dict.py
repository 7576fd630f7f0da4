"""State dictionaries of Wan as other projects write them: prefixes taken off, and a sentence for what is no full model.

Wrappers such as {"generator": ...} are opened where the file is read (`gwm.files.tensors`).
"""

import re
from collections.abc import Mapping
from typing import NamedTuple

import torch
from torch import Tensor

# Left by torch.compile, FSDP, activation checkpointing and DeepSpeed, around the model and around its blocks.
WRAPPER_SEGMENTS = ("_orig_mod.", "_fsdp_wrapped_module.", "_checkpoint_wrapped_module.", "_forward_module.")
# Before every key, from how a project holds its model.
PREFIXES = (
    *("model.diffusion_model.", "diffusion_model.", "module.", "model.", "generator.", "generator_ema.", "ema."),
    *("transformer.", "dit.", "pipe.dit.", "vae.", "first_stage_model."),
)
ADAPTER = re.compile(r"\.(lora_|lora\.|dora_scale|lokr_|hada_|diff(_b)?$)")
QUANTISED = re.compile(r"scaled_fp8|scale_weight|weight_scale|scale_input|absmax|quant_state|qweight|\.SCB|_quantized")
FULL = (torch.float16, torch.bfloat16, torch.float32, torch.float64)


class Part(NamedTuple):
    sign: str  # with which some key begins, or is
    what: str
    remedy: str


# In this order: a later sign may also be found in an earlier part.
PARTS = (
    Part("double_blocks.0.", "a transformer of HunyuanVideo or Flux", "Only Wan's are loaded."),
    Part("transformer_blocks.0.", "a transformer of another model than Wan", "Only Wan's are loaded."),
    Part("condition_embedder.", "a Wan transformer of diffusers", "Pass it as init=."),
    Part("head.modulation", "a Wan transformer of the original release", "Pass it as init=."),
    Part("visual.", "an image encoder (CLIP)", "Name the folder of image_encoder/ with image.folder=."),
    Part("vision_model.", "an image encoder (CLIP)", "Name the folder of image_encoder/ with image.folder=."),
    Part("shared.weight", "a text encoder (T5)", "Name the folder of text_encoder/ with text.folder=."),
    Part("token_embedding.weight", "a text encoder (T5)", "Name the folder of text_encoder/ with text.folder=."),
    Part("decoder.", "an autoencoder", "Pass it as vae=."),
)


def plain_names(weights: Mapping[str, Tensor], *, source: str) -> dict[str, Tensor]:
    """The same tensors without what training code put before and into their names.

    Raises:
        ValueError: two tensors would have one name.
    """
    names = {key: key for key in weights}
    for segment in WRAPPER_SEGMENTS:
        names = {key: name.replace(segment, "") for key, name in names.items()}
    while prefix := next((p for p in PREFIXES if names and all(n.startswith(p) for n in names.values())), None):
        names = {key: name.removeprefix(prefix) for key, name in names.items()}
    if len(set(names.values())) < len(names):
        raise ValueError(
            f"{source} has tensors whose names differ only in {list(WRAPPER_SEGMENTS)}: it holds two models. Save the "
            "one that you mean alone."
        )
    return {names[key]: tensor for key, tensor in weights.items()}


def check_full_model(weights: Mapping[str, Tensor], *, source: str) -> None:
    """Refuse adapters and quantised weights, by what they are.

    Raises:
        ValueError: some tensor is of an adapter, or stored in fewer than 16 bits or as integers.
    """
    adapters = [key for key in weights if ADAPTER.search(key)]
    if adapters:
        raise ValueError(
            f"{source} is a LoRA: {len(adapters)} of {len(weights)} tensors are adapters, such as {adapters[0]}. No "
            "key reads adapters from a file. Merge them into their base with diffusers (load_lora_weights, fuse_lora, "
            "transformer.save_pretrained) and name that folder with init=. New adapters are trained with "
            "+stage.network.lora= (stage=dmd: stage.lora=)."
        )
    scales = [key for key in weights if QUANTISED.search(key)]
    low = [f"{key} ({str(t.dtype).removeprefix('torch.')})" for key, t in weights.items() if t.dtype not in FULL]
    if scales or low:
        raise ValueError(
            f"{source} is quantised: {len(low)} of {len(weights)} tensors are not float16, bfloat16 or float32, such "
            f"as {(low or scales)[0]}. Training and export start from full weights: take the release in bfloat16 or "
            "float16. A trained model is quantised by stage=export."
        )


def described(weights: Mapping[str, Tensor]) -> str:
    """What a state dictionary seems to be, with its first tensors."""
    shown = ", ".join(f"{key} {tuple(weights[key].shape)}" for key in sorted(weights)[:3])
    part = next((p for p in PARTS if any(key.startswith(p.sign) for key in weights)), None)
    seen = f"It has {len(weights)} tensors, among them {shown}."
    return seen if part is None else f"It seems to be {part.what}. {part.remedy} {seen}"
