"""Which files of a folder are read, for every way in which Wan's transformers are published."""

import copy
import dataclasses
import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

from gwm.convert import load_wan
from gwm.wan.files import STEM, chosen_checkpoint, read_tensors, write_tensors
from gwm.wan.geometry import wan_conditions
from tests.wan import family_clip, in_diffusers, our_velocity, reduced, their_velocity

TINY = {"num_layers": 1, "ffn_dim": 32, "text_dim": 16}
SHARD = "500KB"


@pytest.fixture(scope="module")
def theirs() -> Any:
    return in_diffusers(reduced("wan2_1_1_3b"), **TINY)


def named(folder: Path, *names: str) -> Path:
    """A folder with files of these names; index files name a shard each, whose tensor has the index's name."""
    for number, name in enumerate(names):
        if name.endswith(".json"):
            shard = f"shard{number}-00001-of-00001.safetensors"
            save_file({name: torch.zeros(1)}, folder / shard)
            (folder / name).write_text(json.dumps({"weight_map": {name: shard}}))
        elif name.endswith(".safetensors"):
            save_file({name: torch.zeros(1)}, folder / name)
        elif name.endswith(".gguf"):
            (folder / name).write_bytes(b"GGUF\x03\0\0\0")
        else:
            torch.save({name: torch.zeros(1)}, folder / name)
    return folder


@pytest.mark.parametrize("variant", ["fp16", "bf16", None])
@pytest.mark.parametrize("size", [SHARD, "1GB"])
@torch.no_grad()
def test_what_diffusers_writes_is_read(theirs: Any, tmp_path: Path, variant: str | None, size: str):
    """Sharded variants too, whose index is called ...index.fp16.json; half precision is exact in float32."""
    dtype = {"fp16": torch.float16, "bf16": torch.bfloat16, None: torch.float32}[variant]
    copy.deepcopy(theirs).to(dtype).save_pretrained(tmp_path / "transformer", variant=variant, max_shard_size=size)
    indices = [path.name for path in (tmp_path / "transformer").glob("*.index*.json")]
    assert bool(indices) == (size == SHARD)
    model = load_wan(tmp_path)
    assert {p.dtype for p in model.parameters()} == {torch.float32}
    clip = family_clip(model.config, 2)
    expected = their_velocity(type(theirs).from_pretrained(tmp_path / "transformer", variant=variant), clip)
    torch.testing.assert_close(our_velocity(model, clip), expected, rtol=0, atol=1e-5)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@torch.no_grad()
def test_a_folder_of_two_precisions_becomes_one_model_of_one(theirs: Any, tmp_path: Path, dtype: torch.dtype):
    """Asked for bfloat16, diffusers keeps norms and modulation in float32, and so it writes them."""
    theirs.save_pretrained(tmp_path / "full")
    mixed = type(theirs).from_pretrained(tmp_path / "full", torch_dtype=torch.bfloat16)
    mixed.save_pretrained(tmp_path / "transformer")
    stored = read_tensors(tmp_path / "transformer")
    assert {t.dtype for t in stored.values()} == {torch.float32, torch.bfloat16}, "the folder is not mixed"
    model = load_wan(tmp_path, dtype=dtype)
    assert {p.dtype for p in model.parameters()} == {dtype}
    x, sigma, condition = family_clip(model.config, 2)
    clip = x.to(dtype), sigma, condition.with_tokens(text=condition["text"].to(dtype))
    close = 1e-5 if dtype == torch.float32 else 2e-2
    expected = their_velocity(mixed.float(), (x, sigma, condition))
    torch.testing.assert_close(our_velocity(model, clip).float(), expected, rtol=0, atol=close)


ORDER = [
    f"{STEM}.safetensors.index.json",
    f"{STEM}.pth",
    f"{STEM}.bin.index.json",
    f"{STEM}.fp32.safetensors",
    f"{STEM}.bf16.safetensors",
    f"{STEM}.safetensors.fp16.index.json",
    f"{STEM}.ema.safetensors",
    "other.safetensors",
]


@pytest.mark.parametrize("first", range(len(ORDER)))
def test_of_several_files_the_preferred_is_read(tmp_path: Path, first: int):
    """The standard name, then the release without a variant, then the most precise variant, then safetensors."""
    folder = named(tmp_path, *reversed(ORDER[first:]))
    assert chosen_checkpoint(folder).name == ORDER[first]
    assert list(read_tensors(folder)) == [ORDER[first]]


def test_a_file_or_an_index_that_is_named_is_read(tmp_path: Path):
    folder = named(tmp_path, f"{STEM}.safetensors", f"{STEM}.safetensors.index.fp16.json")
    assert list(read_tensors(folder / f"{STEM}.safetensors.index.fp16.json")) == [f"{STEM}.safetensors.index.fp16.json"]


def test_a_variant_that_is_left_out_is_told(tmp_path: Path, caplog: pytest.LogCaptureFixture):
    with pytest.raises(ValueError, match="pass the geometry"):
        load_wan(named(tmp_path, f"{STEM}.safetensors", f"{STEM}.fp16.safetensors"))
    assert caplog.text.count(f"has also ['{STEM}.fp16.safetensors']: name the file") == 1


def test_pickles_in_shards_are_read(tmp_path: Path):
    for number, name in enumerate("ab"):
        torch.save({name: torch.full((1,), number)}, tmp_path / f"pytorch_model-0000{number}-of-00002.bin")
    where = {name: f"pytorch_model-0000{number}-of-00002.bin" for number, name in enumerate("ab")}
    (tmp_path / "pytorch_model.bin.index.json").write_text(json.dumps({"weight_map": where}))
    with pytest.raises(ValueError, match="int64"):  # read, and then refused: these are integers
        read_tensors(tmp_path)


@pytest.mark.parametrize(
    ("names", "message"),
    [
        (["a.safetensors", "b.pth"], r"has \['a.safetensors', 'b.pth'\]: name the file that you mean"),
        ([f"{STEM}-00001-of-00002.safetensors"], r"shards such as .*-00001-of-00002.* and no index\.json"),
        (["model.gguf"], r"model\.gguf is a GGUF file"),
    ],
)
def test_a_folder_that_says_not_what_to_read_is_an_error(tmp_path: Path, names: list[str], message: str):
    with pytest.raises(ValueError, match=message):
        read_tensors(named(tmp_path, *names))


def test_a_name_of_the_hub_is_taken_for_one():
    with pytest.raises(FileNotFoundError, match=r"hf download Wan-AI/Wan2\.1-T2V-1\.3B --local-dir Wan2\.1-T2V-1\.3B"):
        read_tensors(Path("Wan-AI/Wan2.1-T2V-1.3B"))


def test_weights_that_are_not_finite_are_not_written(tmp_path: Path):
    with pytest.raises(ValueError, match=r"1 of 1 tensors.*a \(1 of 1 values\)"):
        write_tensors(tmp_path, {"a": torch.tensor([float("inf")])})
    assert list(tmp_path.iterdir()) == []


def expert_folders(folder: Path, names: tuple[str, str], models: list[Any]) -> None:
    for name, model in zip(names, models, strict=True):
        model.save_pretrained(folder / name)


@torch.no_grad()
def test_an_expert_of_two_is_named(tmp_path: Path):
    """Wan 2.2 A14B in diffusers' layout; transformer_2 is another model, and the one that is named is read."""
    config = dataclasses.replace(reduced("wan2_1_14b"), num_layers=1, ffn_dim=32)
    models = [in_diffusers(config), in_diffusers(config)]
    models[1].proj_out.bias += 1
    expert_folders(tmp_path, ("transformer", "transformer_2"), models)
    with pytest.raises(
        ValueError, match=r"has two transformers.*init=\S+/transformer base=.*init=\S+/transformer_2 base="
    ):
        load_wan(tmp_path)
    for name, model in zip(("transformer", "transformer_2"), models, strict=True):
        assert torch.equal(load_wan(tmp_path / name).head.bias, model.proj_out.bias)


def original(config: Any, *, prefix: str = "") -> dict[str, Tensor]:
    from gwm.wan.tensor_names import expected_tensors

    return {prefix + name: torch.randn(e.shape) for name, (_, e) in expected_tensors(config, "original").items()}


def test_an_image_to_video_expert_without_clip_is_read_from_the_original_release(tmp_path: Path):
    """Its config.json says i2v as that of Wan 2.1, which attends to CLIP."""
    whole = reduced("wan2_1_i2v_14b")
    values = {
        "_class_name": "WanModel", "model_type": "i2v", "dim": whole.dim, "ffn_dim": 32, "num_heads": whole.num_heads,
        "num_layers": 1, "in_dim": 36, "out_dim": 16, "freq_dim": 256, "eps": 1e-6, "text_len": 512,
    }  # fmt: skip
    for name, image_dim in (("high_noise_model", 0), ("low_noise_model", 0), ("wan2_1", 1280)):
        folder = tmp_path / name
        folder.mkdir()
        conditions = wan_conditions(text=4096, image=image_dim, channels=20)
        config = dataclasses.replace(whole, num_layers=1, ffn_dim=32, conditions=conditions)
        write_tensors(folder, original(config), shard_bytes=10**7)
        (folder / "config.json").write_text(json.dumps(values))
        assert load_wan(folder).config == config
    with pytest.raises(ValueError, match=r"init=\S+/high_noise_model base=.*init=\S+/low_noise_model base="):
        load_wan(tmp_path)
