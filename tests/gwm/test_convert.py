"""Checkpoints as the hub has them come in whole, or not at all, and go out as they came."""

import dataclasses
import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from gwm.block import MaskedClip
from gwm.config import DiTConfig
from gwm.convert import load_wan, save_diffusers, to_gwm, with_conditions, without_conditions
from gwm.dit import DiT
from gwm.wan.geometry import read_geometry
from gwm.wan.tensor_names import expected_tensors
from tests.tiny import lively
from tests.wan import (
    FAMILIES,
    diffusers_config,
    family_clip,
    in_diffusers,
    our_velocity,
    published,
    reduced,
    their_velocity,
    with_added,
    with_voices,
)

PARAMETERS = {
    "wan2_1_1_3b": 1_418_996_800,
    "wan2_1_14b": 14_288_491_584,
    "wan2_1_i2v_14b": 16_394_878_784,
    "wan2_2_ti2v_5b": 4_999_787_712,
}
MODEL_TYPES = {"wan2_1_1_3b": "t2v", "wan2_1_14b": "t2v", "wan2_1_i2v_14b": "i2v", "wan2_2_ti2v_5b": "ti2v"}
SHARD = "8MB"
WIDTHS = {"speech": 24, "action": 3}


@pytest.fixture(scope="module", params=FAMILIES)
def family(request: pytest.FixtureRequest) -> str:
    return request.param


@pytest.fixture(scope="module")
def theirs(family: str) -> Any:
    return in_diffusers(reduced(family))


def original_weights(config: DiTConfig) -> dict[str, Tensor]:
    """Random tensors under the names of the original release."""
    return {name: torch.randn(empty.shape) for name, (_, empty) in expected_tensors(config, "original").items()}


def original_config(config: DiTConfig, model_type: str) -> dict[str, Any]:
    """The config.json of the original release, written down independently of `gwm.wan.geometry`."""
    return {
        "_class_name": "WanModel",
        "_diffusers_version": "0.30.0",
        "dim": config.dim,
        "eps": 1e-6,
        "ffn_dim": config.ffn_dim,
        "freq_dim": 256,
        "in_dim": config.in_channels + config.given_channels,
        "model_type": model_type,
        "num_heads": config.num_heads,
        "num_layers": config.num_layers,
        "out_dim": config.in_channels,
        "text_len": 512,
    }


def same(weights: dict[str, Tensor], expected: dict[str, Tensor]) -> bool:
    return weights.keys() == expected.keys() and all(
        torch.equal(weights[k], expected[k]) and weights[k].dtype == expected[k].dtype for k in expected
    )


def test_published_geometry_is_diffusers(family: str, tmp_path: Path):
    """At full size, without memory: as many parameters as published, and every name and shape."""
    from diffusers import WanTransformer3DModel

    config = published(family)
    with torch.device("meta"):
        model = WanTransformer3DModel(**diffusers_config(config))
    assert sum(p.numel() for p in model.parameters()) == PARAMETERS[family]
    model.save_config(tmp_path)
    assert read_geometry(tmp_path / "config.json") == config
    expected = {name: empty.shape for name, (_, empty) in expected_tensors(config, "diffusers").items()}
    assert {name: tensor.shape for name, tensor in model.state_dict().items()} == expected


@pytest.mark.parametrize("size", [SHARD, "1GB"])
def test_diffusers_to_gwm_to_diffusers_gives_identical_tensors(theirs: Any, tmp_path: Path, size: str):
    from diffusers import WanTransformer3DModel

    theirs.save_pretrained(tmp_path / "pipeline" / "transformer", max_shard_size=size)
    assert (tmp_path / "pipeline/transformer/diffusion_pytorch_model.safetensors.index.json").exists() == (
        size == SHARD
    )
    model = load_wan(tmp_path / "pipeline")
    save_diffusers(model, tmp_path / "back", shard_bytes=8 * 10**6 if size == SHARD else 10**9)
    back = WanTransformer3DModel.from_pretrained(tmp_path / "back")
    assert same(back.state_dict(), theirs.state_dict())
    there, here = (
        json.loads((tmp_path / folder / "config.json").read_text()) for folder in ("pipeline/transformer", "back")
    )
    assert {k: v for k, v in here.items() if k[0] != "_"} == {k: v for k, v in there.items() if k[0] != "_"}


@pytest.mark.parametrize("suffix", [".safetensors", ".pth"])
def test_the_original_release_is_what_diffusers_makes_of_it(family: str, tmp_path: Path, suffix: str):
    from diffusers.loaders.single_file_utils import convert_wan_transformer_to_diffusers

    config = reduced(family)
    weights = original_weights(config)
    path = tmp_path / f"diffusion_pytorch_model{suffix}"
    save_file(weights, path) if suffix == ".safetensors" else torch.save(weights, path)
    (tmp_path / "config.json").write_text(json.dumps(original_config(config, MODEL_TYPES[family])))
    expected = to_gwm(convert_wan_transformer_to_diffusers(dict(weights)), config, source="diffusers")
    assert same(load_wan(tmp_path).state_dict(), expected)
    assert same(load_wan(path, config=config).state_dict(), expected)


def test_the_first_and_last_frame_model_is_read_from_both_releases(tmp_path: Path):
    """Wan 2.1 FLF2V adds numbers of their own to CLIP's 514 tokens."""
    from diffusers import WanTransformer3DModel
    from diffusers.loaders.single_file_utils import convert_wan_transformer_to_diffusers

    config = reduced("wan2_1_i2v_14b")
    placed = [dataclasses.replace(spec, places=514 * (spec.name == "image")) for spec in config.conditions]
    config = dataclasses.replace(config, conditions=tuple(placed))
    weights = original_weights(config)
    assert weights["img_emb.emb_pos"].shape == (1, 514, 1280)
    save_file(weights, tmp_path / "diffusion_pytorch_model.safetensors")
    (tmp_path / "config.json").write_text(json.dumps(original_config(config, "flf2v")))
    model = load_wan(tmp_path)
    theirs = convert_wan_transformer_to_diffusers(dict(weights))
    place = theirs.pop("img_emb.emb_pos")  # which diffusers' reader of single files leaves as it is
    theirs["condition_embedder.image_embedder.pos_embed"] = place
    assert model.config == config and same(model.state_dict(), to_gwm(theirs, config, source="diffusers"))
    save_diffusers(model, tmp_path / "theirs")
    assert same(WanTransformer3DModel.from_pretrained(tmp_path / "theirs").state_dict(), theirs)
    assert same(load_wan(tmp_path / "theirs").state_dict(), model.state_dict())
    x, sigma, condition = family_clip(config, 2)
    with pytest.raises(ValueError, match="image has 7 tokens, must have 514"):
        our_velocity(model, (x, sigma, condition))


def test_a_checkpoint_in_half_precision_serves_and_learns(tmp_path: Path):
    config = dataclasses.replace(reduced("wan2_1_1_3b"), num_layers=1)
    weights = {k: v.bfloat16() for k, v in original_weights(config).items()}
    save_file(weights, tmp_path / "one.safetensors")
    model = load_wan(tmp_path / "one.safetensors", config=config, dtype=torch.bfloat16)
    assert {p.dtype for p in model.parameters()} == {torch.bfloat16}
    x, sigma, condition = family_clip(config, 1)
    condition = condition.with_tokens(text=condition["text"].bfloat16())
    whole = model(x.bfloat16(), sigma, condition, positions=torch.arange(1), context=MaskedClip(None)).velocity
    whole.float().square().mean().backward()
    assert all(p.grad is not None and p.grad.any() for p in model.parameters())


def test_a_norm_that_nothing_computes_with_is_left_out(tmp_path: Path):
    """Published I2V folders have it, and diffusers leaves it out as well."""
    config = dataclasses.replace(reduced("wan2_1_i2v_14b"), num_layers=1, ffn_dim=32)
    theirs = in_diffusers(config)
    assert "norm_added_q" in theirs._keys_to_ignore_on_load_unexpected
    weights = dict(theirs.state_dict()) | {"blocks.0.attn2.norm_added_q.weight": torch.ones(config.dim)}
    assert to_gwm(weights, config, source="x").keys() == to_gwm(theirs.state_dict(), config, source="x").keys()


def test_missing_foreign_and_misshaped_tensors_are_named(tmp_path: Path):
    config = dataclasses.replace(reduced("wan2_1_1_3b"), num_layers=1)
    weights = original_weights(config)
    del weights["blocks.0.self_attn.q.weight"]
    weights["blocks.1.ffn.0.bias"] = torch.zeros(3)
    weights["head.modulation"] = torch.zeros(1, 2, 7)
    with pytest.raises(ValueError) as error:
        to_gwm(weights, config, source="broken")
    for name in ("blocks.0.self_attn.q.weight", "blocks.1.ffn.0.bias", "head.modulation (1, 2, 7) != (1, 2, 256)"):
        assert name in str(error.value)


def test_a_missing_shard_is_named(tmp_path: Path):
    model = lively(DiT(dataclasses.replace(reduced("wan2_1_1_3b"), num_layers=1)))
    assert isinstance(model, DiT)
    save_diffusers(model, tmp_path, shard_bytes=4 * 10**6)
    shard = sorted(tmp_path.glob("*-00002-of-*"))[0]
    kept = load_file(shard)
    name, _ = kept.popitem()
    save_file(kept, shard)
    with pytest.raises(ValueError, match=name):
        load_wan(tmp_path)
    shard.unlink()
    with pytest.raises(FileNotFoundError, match=shard.name):
        load_wan(tmp_path)


def test_truncated_and_foreign_files_are_errors(tmp_path: Path):
    config = reduced("wan2_1_1_3b")
    path = tmp_path / "cut.safetensors"
    save_file({"a": torch.zeros(9)}, path)
    with pytest.raises(ValueError, match=r"it is no Wan transformer.* a \(9,\)"):
        load_wan(path, config=config)
    path.write_bytes(path.read_bytes()[:-9])
    with pytest.raises(ValueError, match="truncated"):
        load_wan(path, config=config)
    with pytest.raises(FileNotFoundError, match=r"nothing must be a tensor file .*Nothing is there: check the path"):
        load_wan(tmp_path / "nothing", config=config)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"qk_norm": None}, "qk_norm"),
        ({"quantization_config": {"quant_method": "bitsandbytes"}}, "quantised"),
        ({"_class_name": "CogVideoXTransformer3DModel"}, "CogVideoXTransformer3DModel.*Only Wan's are loaded"),
        ({"_class_name": "AutoencoderKLWan"}, "AutoencoderKLWan.*pass it as vae="),
        ({"vace_layers": [0]}, "unknown keys \\['vace_layers'\\]"),
        ({"added_kv_proj_dim": 5120}, "added_kv_proj_dim=5120"),
        ({"_class_name": "FluxTransformer2DModel"}, "FluxTransformer2DModel"),
    ],
)
def test_another_architecture_is_an_error(tmp_path: Path, change: dict[str, Any], message: str):
    config = diffusers_config(published("wan2_1_1_3b"))
    (tmp_path / "config.json").write_text(json.dumps({"_class_name": "WanTransformer3DModel"} | config | change))
    with pytest.raises(ValueError, match=message):
        read_geometry(tmp_path / "config.json")


def test_another_geometry_than_asked_for_is_an_error(tmp_path: Path):
    config = dataclasses.replace(reduced("wan2_1_1_3b"), num_layers=1)
    save_diffusers(DiT(config), tmp_path)
    with pytest.raises(ValueError, match=r"\{'num_layers': \(1, 30\)\}"):
        load_wan(tmp_path, config=dataclasses.replace(config, num_layers=30))
    (tmp_path / "config.json").unlink()
    with pytest.raises(ValueError, match=r"config\.json does not exist: pass the geometry"):
        load_wan(tmp_path)


def test_what_wan_does_not_have_cannot_be_written_as_wan(tmp_path: Path):
    model = DiT(with_added(dataclasses.replace(reduced("wan2_1_1_3b"), num_layers=1), **WIDTHS))
    with pytest.raises(ValueError, match=r"frame_embeddings\.agent\.layers\.0\.bias"):
        save_diffusers(model, tmp_path)


@torch.no_grad()
def test_added_conditions_change_nothing_until_they_are_trained(theirs: Any, tmp_path: Path):
    """Step 0 of a model that takes two voices and actions is the published model: diffusers says the same."""
    theirs.save_pretrained(tmp_path / "transformer")
    config = read_geometry(tmp_path / "transformer" / "config.json")
    model = load_wan(tmp_path, config=with_added(config, **WIDTHS)).eval()
    clip = with_voices(family_clip(config, 3), **WIDTHS)
    torch.testing.assert_close(our_velocity(model, clip), their_velocity(theirs, clip), rtol=0, atol=1e-5)
    frozen = {name.partition(".")[0] for name, p in model.named_parameters() if not p.requires_grad}
    assert frozen == {"speech_encoder"}


@torch.no_grad()
def test_a_model_without_its_conditions_does_what_it_did_when_none_was_given(tmp_path: Path):
    """Trained voices and actions go; what silence of them added at every noise level stays, and diffusers shows it."""
    from diffusers import WanTransformer3DModel

    base = dataclasses.replace(reduced("wan2_1_1_3b"), num_layers=1)
    model = lively(DiT(with_added(base, **WIDTHS)))
    assert isinstance(model, DiT)
    clip = with_voices(family_clip(base, 3), **WIDTHS, scale=0.0)
    save_diffusers(without_conditions(model), tmp_path)
    back = WanTransformer3DModel.from_pretrained(tmp_path)
    expected = our_velocity(model, clip)
    close = 1e-5 * expected.abs().max().item()
    torch.testing.assert_close(their_velocity(back, clip), expected, rtol=0, atol=close)
    heard = with_voices(clip, **WIDTHS, scale=1.0)
    assert (our_velocity(model, heard) - expected).abs().max() > 1e-2


def test_conditions_cannot_be_added_to_another_shape():
    config = dataclasses.replace(reduced("wan2_1_1_3b"), num_layers=1)
    wider = with_added(dataclasses.replace(config, ffn_dim=8), **WIDTHS)
    with pytest.raises(ValueError, match=rf"differs in {{'ffn_dim': \({config.ffn_dim}, 8\)}}"):
        with_conditions(DiT(config), wider)
