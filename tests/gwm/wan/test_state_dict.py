"""State dictionaries as others write them are the same model, and what is no full model is called what it is."""

import dataclasses
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

from gwm.config import DiTConfig
from gwm.convert import load_wan
from gwm.wan.geometry import wan_conditions
from gwm.wan.state_dict import plain_names
from gwm.wan.tensor_names import expected_tensors
from tests.wan import reduced

CONFIG: DiTConfig = dataclasses.replace(
    reduced("wan2_1_1_3b"), num_layers=1, ffn_dim=32, conditions=wan_conditions(text=16, image=0, channels=0)
)
Spelling = Callable[[str], str]


@pytest.fixture(scope="module")
def weights() -> dict[str, Tensor]:
    return {name: torch.randn(empty.shape) for name, (_, empty) in expected_tensors(CONFIG, "original").items()}


def prefixed(prefix: str) -> Spelling:
    return lambda key: prefix + key


def in_blocks(key: str) -> str:
    """As FSDP with activation checkpointing and a compiled block name it."""
    inner = key.replace("blocks.0.", "blocks.0._fsdp_wrapped_module._checkpoint_wrapped_module._orig_mod.")
    return "model._fsdp_wrapped_module." + inner


SPELLINGS = {
    prefix: prefixed(prefix)
    for prefix in (
        *("model.diffusion_model.", "diffusion_model.", "module.", "_orig_mod.", "model.", "generator."),
        *("_fsdp_wrapped_module.", "module._orig_mod.", "generator.model.", "pipe.dit."),
    )
} | {"in blocks": in_blocks}


@pytest.mark.parametrize("spelling", SPELLINGS)
def test_every_spelling_is_the_same_model(weights: dict[str, Tensor], spelling: str, tmp_path: Path):
    path = tmp_path / "x.safetensors"
    save_file({SPELLINGS[spelling](key): tensor for key, tensor in weights.items()}, path)
    model = load_wan(path, config=CONFIG)
    assert torch.equal(model.head.weight, weights["head.head.weight"])
    assert torch.equal(model.blocks[0].attention.q.weight, weights["blocks.0.self_attn.q.weight"])


def test_a_student_of_self_forcing_is_read(weights: dict[str, Tensor], tmp_path: Path):
    ema = {f"model._fsdp_wrapped_module.{key}": tensor for key, tensor in weights.items()}
    torch.save(
        {"generator": {f"model.{k}": 0 * v for k, v in weights.items()}, "generator_ema": ema}, tmp_path / "x.pt"
    )
    assert torch.equal(load_wan(tmp_path / "x.pt", config=CONFIG).head.weight, weights["head.head.weight"])


def test_a_prefix_of_some_keys_stays():
    weights = {"model.a": torch.zeros(1), "b": torch.zeros(1)}
    assert list(plain_names(weights, source="x")) == ["model.a", "b"]


def test_two_models_in_one_dictionary_are_an_error():
    weights = {"a": torch.zeros(1), "_orig_mod.a": torch.zeros(1)}
    with pytest.raises(ValueError, match="it holds two models"):
        plain_names(weights, source="x")


LORAS = {
    "peft": "base_model.model.blocks.0.self_attn.q.lora_A.weight",
    "diffusers": "transformer.blocks.0.attn1.to_q.lora_B.weight",
    "kohya": "lora_unet_blocks_0_self_attn_q.lora_down.weight",
    "diffsynth": "blocks.0.self_attn.q.lora_A.default.weight",
    "lightx2v": "diffusion_model.blocks.0.self_attn.q.diff_b",
    "dora": "diffusion_model.blocks.0.self_attn.q.dora_scale",
}


@pytest.mark.parametrize("key", LORAS.values(), ids=LORAS)
def test_a_lora_is_called_one(tmp_path: Path, key: str):
    save_file({key: torch.zeros(4, 4)}, tmp_path / "x.safetensors")
    with pytest.raises(ValueError, match=rf"x\.safetensors is a LoRA: 1 of 1 .*{key}.*fuse_lora.*init=.*lora="):
        load_wan(tmp_path / "x.safetensors", config=CONFIG)


@pytest.mark.parametrize("dtype", [torch.float8_e4m3fn, torch.int8, torch.uint8])
def test_quantised_weights_are_called_so(weights: dict[str, Tensor], dtype: torch.dtype, tmp_path: Path):
    low = {k: v.to(dtype) if k.endswith(".q.weight") else v for k, v in weights.items()}
    save_file(low | {"blocks.0.self_attn.q.scale_weight": torch.ones(1)}, tmp_path / "x.safetensors")
    with pytest.raises(
        ValueError, match=rf"x\.safetensors is quantised: 2 of .*cross_attn\.q\.weight \({str(dtype)[6:]}"
    ):
        load_wan(tmp_path / "x.safetensors", config=CONFIG)


OTHERS = {
    "decoder.conv1.weight": "It seems to be an autoencoder. Pass it as vae=",
    "shared.weight": "a text encoder",
    "visual.conv1.weight": "an image encoder",
    "transformer_blocks.0.attn1.to_q.weight": "a transformer of another model than Wan",
    "a.b": r"It has 1 tensors, among them a\.b \(2, 3\)",
}


@pytest.mark.parametrize("key", OTHERS)
def test_another_part_is_called_what_it_is(tmp_path: Path, key: str):
    save_file({key: torch.zeros(2, 3)}, tmp_path / "x.safetensors")
    with pytest.raises(ValueError, match=rf"it is no Wan transformer\. .*{OTHERS[key]}"):
        load_wan(tmp_path / "x.safetensors", config=CONFIG)
