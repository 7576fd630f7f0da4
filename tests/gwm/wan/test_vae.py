"""Wan's autoencoders: diffusers' numbers, but as a stream whose state the caller holds."""

import copy
import dataclasses
import json
from collections.abc import Callable, Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from gwm.media.pixels import as_bytes, as_float
from gwm.wan.vae import BLOCK, WanVAE, fuse, load_wan_vae
from gwm.wan.vae_config import WAN2_1_VAE, WAN2_2_VAE, WanVAEConfig, diffusers_key, read_vae_config
from kernels.dispatch import using
from tests.tiny import lively

FP32, BF16 = 1e-5, 2e-2
FEATURES = 1e-4  # within the decoder, where numbers are larger than pixels
PUBLISHED = {"wan2_1": WAN2_1_VAE, "wan2_2": WAN2_2_VAE}
PARAMETERS = {"wan2_1": 126_892_531, "wan2_2": 704_688_668}
# The published config.json, written down independently of `vae_config`; of Wan 2.1 all is diffusers' default.
CONFIGS: dict[str, dict[str, Any]] = {
    "wan2_1": {},
    "wan2_2": {
        "base_dim": 160,
        "decoder_base_dim": 256,
        "z_dim": 48,
        "is_residual": True,
        "in_channels": 12,
        "out_channels": 12,
        "patch_size": 2,
        "scale_factor_spatial": 16,
        "latents_mean": list(WAN2_2_VAE.latents_mean),
        "latents_std": list(WAN2_2_VAE.latents_std),
    },
}
FRAMES = 12
ROWS, COLUMNS = 2, 3  # latent cells: rows are not columns


@pytest.fixture(scope="module", params=PUBLISHED)
def vae(request: pytest.FixtureRequest) -> WanVAE:
    """The published shape, thinner."""
    torch.manual_seed(0)
    vae = lively(WanVAE(dataclasses.replace(PUBLISHED[request.param], base_dim=8, decoder_base_dim=8)))
    assert isinstance(vae, WanVAE)
    return vae.eval().requires_grad_(False)


def latents(vae: WanVAE, num_frames: int = FRAMES) -> Tensor:
    return torch.randn(2, num_frames, vae.config.latent_channels, ROWS, COLUMNS)


def pixels(vae: WanVAE, num_frames: int) -> Tensor:
    side = vae.config.spatial_stride
    return torch.rand(2, num_frames, 3, ROWS * side, COLUMNS * side) * 2 - 1


def statistics(config: Any, like: Tensor) -> list[Tensor]:
    return [torch.tensor(s).view(1, -1, 1, 1, 1).to(like) for s in (config.latents_mean, config.latents_std)]


def their_latents(vae: WanVAE, pixel_frames: Tensor) -> Tensor:
    """As diffusers' pipelines: the posterior's mode, normalised with the config's statistics."""
    config = vae.model.config
    mean, std = statistics(config, pixel_frames)
    return ((vae.model.encode(pixel_frames.transpose(1, 2)).latent_dist.mode() - mean) / std).transpose(1, 2)


def their_pixels(vae: WanVAE, latents: Tensor) -> Tensor:
    config = vae.model.config
    mean, std = statistics(config, latents)
    return vae.model.decode(latents.transpose(1, 2) * std + mean).sample.transpose(1, 2)


def test_encoding_is_diffusers(vae: WanVAE):
    clip = pixels(vae, 9)
    torch.testing.assert_close(vae.encode_pixels(clip), their_latents(vae, clip), rtol=0, atol=FP32)


def test_decoding_is_diffusers(vae: WanVAE):
    x0 = latents(vae)
    made, _ = vae.decode_pixels(x0)
    assert made.shape[1] == 1 + 4 * (FRAMES - 1)
    assert made.std() > 0.01
    torch.testing.assert_close(made.clamp(-1, 1), their_pixels(vae, x0), rtol=0, atol=FP32)


def test_bf16_is_diffusers(vae: WanVAE):
    low = copy.deepcopy(vae).bfloat16()
    x0, clip = latents(vae, 3).bfloat16(), pixels(vae, 9).bfloat16()
    made, theirs = low.decode_pixels(x0)[0].clamp(-1, 1), their_pixels(low, x0)
    assert made.dtype == theirs.dtype == torch.bfloat16
    torch.testing.assert_close(made, theirs, rtol=0, atol=BF16)
    torch.testing.assert_close(low.encode_pixels(clip), their_latents(low, clip), rtol=0, atol=BF16)


@pytest.mark.parametrize("cuts", [[1] * 12, [4, 4, 4], [1, 3, 3, 3, 2]], ids=str)
def test_streamed_decoding_is_whole_decoding(vae: WanVAE, cuts: list[int]):
    x0 = latents(vae)
    state, parts = None, []
    for part in x0.split(cuts, dim=1):
        made, state = vae.decode_pixels(part, state)
        parts.append(made)
    assert torch.equal(torch.cat(parts, dim=1), vae.decode_pixels(x0)[0])


def test_a_fused_decoder_shows_what_diffusers_layers_show(vae: WanVAE):
    """Frames and what is remembered; that the kernel is its reference is said in tests/kernels."""
    fused, x0 = copy.deepcopy(vae), latents(vae, 3)
    fuse(fused.model.decoder)
    asked: list[str] = []

    def told(name: str, x: Tensor, reference: Callable, kernel: Callable) -> Callable:
        asked.append(name)
        return reference

    with using(told):
        made, memory = fused.decode_pixels(x0)
    expected, their_memory = vae.decode_pixels(x0)
    assert len(asked) == 2 * 3 * sum(type(m).__name__ == BLOCK for m in vae.model.decoder.modules())
    torch.testing.assert_close(made, expected, rtol=0, atol=FP32)
    torch.testing.assert_close(memory, their_memory, rtol=FEATURES, atol=FEATURES)


def test_the_state_never_changes_shape_and_is_never_changed(vae: WanVAE):
    """A captured graph needs the one; going back after an interruption needs the other."""
    x0 = latents(vae, 4)
    first = vae.decode_pixels(x0[:, :2])[1]
    assert [feature.shape for feature in first] == [feature.shape for feature in vae.decode_pixels(x0[:, :1])[1]]
    before = [feature.clone() for feature in first]
    once = vae.decode_pixels(x0[:, 2:], first)[0]
    assert all(torch.equal(a, b) for a, b in zip(first, before, strict=True))
    assert torch.equal(vae.decode_pixels(x0[:, 2:], first)[0], once)


def test_a_stream_after_a_reference_image_has_four_frames_each_from_the_start(vae: WanVAE):
    """What the encoder of data and the server do: the image leads, and its own latent frame is not shown."""
    clip = as_bytes(pixels(vae, 9))
    reference = vae.encode_reference(clip[:, 0])
    x0 = vae.encode(clip[:, 1:], reference)
    whole = vae.encode_pixels(as_float(clip))
    torch.testing.assert_close(torch.cat([reference.latent, x0], dim=1), whole, rtol=0, atol=FP32)
    shown, _ = vae.decode(x0, vae.begin(reference))
    expected = as_bytes(vae.decode_pixels(whole)[0][:, 1:])
    assert (shown.int() - expected.int()).abs().max() <= 1


@pytest.mark.parametrize("shape", [(8, 0), (9, 4)], ids=["frames", "side"])
def test_a_clip_that_does_not_fit_is_an_error(vae: WanVAE, shape: tuple[int, int]):
    num_frames, more = shape
    clip = torch.zeros(1, num_frames, 3, 32, 32 + more)
    with pytest.raises(ValueError, match="frames must be 1 plus a multiple of 4"):
        vae.encode_pixels(clip)


@pytest.mark.parametrize("family", PUBLISHED)
def test_published_shape_is_diffusers(family: str, tmp_path: Path):
    from diffusers import AutoencoderKLWan

    with torch.device("meta"):
        model = AutoencoderKLWan(**CONFIGS[family])
    assert sum(p.numel() for p in model.parameters()) == PARAMETERS[family]
    model.save_config(tmp_path)
    assert read_vae_config(tmp_path / "config.json") == PUBLISHED[family]


def test_wan2_1_is_what_diffusers_takes_for_granted(tmp_path: Path):
    (tmp_path / "config.json").write_text(json.dumps({"_class_name": "AutoencoderKLWan"}))
    assert read_vae_config(tmp_path / "config.json") == WAN2_1_VAE
    (tmp_path / "config.json").write_text(json.dumps({"_class_name": "AutoencoderKLWan", "dropout": 0.1}))
    with pytest.raises(ValueError, match=r"\{'dropout': 0.1\}"):
        read_vae_config(tmp_path / "config.json")


def test_a_diffusers_folder_loads(vae: WanVAE, tmp_path: Path):
    vae.model.save_pretrained(tmp_path / "vae")
    loaded = load_wan_vae(tmp_path)
    clip = pixels(vae, 5)
    assert torch.equal(loaded.encode_pixels(clip), vae.encode_pixels(clip))


@pytest.mark.parametrize("variant", ["fp16", None])
def test_a_folder_in_half_precision_is_computed_in_float32(vae: WanVAE, tmp_path: Path, variant: str | None):
    copy.deepcopy(vae.model).half().save_pretrained(tmp_path / "vae", variant=variant, max_shard_size="200KB")
    loaded = load_wan_vae(tmp_path)
    assert {parameter.dtype for parameter in loaded.parameters()} == {torch.float32}
    clip = pixels(vae, 5)
    stored = copy.deepcopy(vae)
    stored.model.load_state_dict({key: tensor.half() for key, tensor in vae.model.state_dict().items()})
    assert torch.equal(loaded.encode_pixels(clip), stored.encode_pixels(clip))


def test_the_original_release_is_what_diffusers_makes_of_it(vae: WanVAE, tmp_path: Path):
    theirs = vae.model.state_dict()
    weights = {name: theirs[diffusers_key(name, vae.config)] for name in original_names(vae.config)}
    assert len(weights) == len(theirs)
    if not vae.config.residual:  # diffusers converts only this one
        from diffusers.loaders.single_file_utils import convert_wan_vae_to_diffusers

        converted = convert_wan_vae_to_diffusers(dict(weights))
        assert all(torch.equal(converted[name], theirs[name]) for name in theirs)
    torch.save(weights, tmp_path / "Wan_VAE.pth")
    loaded = load_wan_vae(tmp_path / "Wan_VAE.pth", config=vae.config)
    assert all(torch.equal(tensor, theirs[name]) for name, tensor in loaded.model.state_dict().items())


def test_every_name_of_the_original_is_the_layer_that_runs_at_its_place(vae: WanVAE):
    """Blocks of one shape could be exchanged and all would load; a picture would come out wrong."""
    ran: list[str] = []
    hooks = [
        module.register_forward_hook(lambda *_, name=name: ran.append(name))
        for name, module in vae.model.named_modules()
        if list(module.parameters(recurse=False))
    ]
    their_pixels(vae, their_latents(vae, pixels(vae, 9)))
    for hook in hooks:
        hook.remove()
    # Of each half the last frames: convolutions over time do not run for the first.
    first, last = ran.index("post_quant_conv"), {name: at for at, name in enumerate(ran)}
    ran_last = [*ran[last["encoder.conv_in"] : first + 1], *ran[last["decoder.conv_in"] :]]
    expected = [diffusers_key(name, vae.config).rpartition(".")[0] for name in original_names(vae.config)]
    assert ran_last == list(dict.fromkeys(expected))


def test_missing_and_foreign_tensors_are_listed(vae: WanVAE, tmp_path: Path):
    weights = {name: vae.model.state_dict()[diffusers_key(name, vae.config)] for name in original_names(vae.config)}
    del weights["decoder.middle.1.proj.bias"]
    weights["decoder.upsamples.99.bias"] = torch.zeros(1)
    torch.save(weights, tmp_path / "Wan_VAE.pth")
    with pytest.raises(ValueError, match=r"mid_block\.attentions\.0\.proj\.bias.*99"):
        load_wan_vae(tmp_path / "Wan_VAE.pth", config=vae.config)


@pytest.mark.parametrize("family", PUBLISHED)
@pytest.mark.parametrize("wrapper", [None, "state_dict"])
def test_a_published_autoencoder_is_known_by_its_tensors(family: str, wrapper: str | None, tmp_path: Path):
    """Whatever its file is called; here with one tensor of the right shape, so that it ends where all are compared."""
    channels = 2 * PUBLISHED[family].latent_channels
    weights = {"model.conv1.weight": torch.zeros(channels, channels, 1, 1, 1)}
    torch.save(weights if wrapper is None else {wrapper: weights}, tmp_path / "renamed.pt")
    expected = f"conv_in.weight.*and {len(state_names(family)) - 1 - 6} more, foreign keys \\[\\]"
    with pytest.raises(ValueError, match=expected), torch.device("meta"):
        load_wan_vae(tmp_path / "renamed.pt")


@pytest.mark.parametrize(
    ("weights", "message"),
    [
        ({"conv1.weight": torch.zeros(8, 8, 1, 1, 1)}, r"4 latent channels, must have one of \[16, 48\]"),
        ({"head.modulation": torch.zeros(1, 2, 8)}, r"no Wan autoencoder\. It seems to be a Wan transformer.*init="),
    ],
)
def test_what_is_no_wan_autoencoder_is_an_error(tmp_path: Path, weights: dict[str, Tensor], message: str):
    torch.save(weights, tmp_path / "x.pth")
    with pytest.raises(ValueError, match=message):
        load_wan_vae(tmp_path / "x.pth")


def test_a_transformers_folder_is_no_autoencoder(tmp_path: Path):
    (tmp_path / "config.json").write_text(json.dumps({"_class_name": "WanTransformer3DModel"}))
    with pytest.raises(ValueError, match=r"WanTransformer3DModel.*with vae=, or with base="):
        load_wan_vae(tmp_path)


def state_names(family: str) -> list[str]:
    with torch.device("meta"):
        return list(WanVAE(PUBLISHED[family]).model.state_dict())


def original_names(config: WanVAEConfig) -> Iterator[str]:
    """Names in the original release, in the order in which its modules run (Wan2.1 wan/modules/vae.py, Wan2.2
    vae2_2.py): a block's shortcut first, an upsampler's convolution over time before that over the picture."""

    def layer(name: str) -> list[str]:
        return [f"{name}.weight", f"{name}.bias"]

    def block(name: str, shortcut: bool) -> list[str]:
        names = [f"{name}.residual.0.gamma", *layer(f"{name}.residual.2"), f"{name}.residual.3.gamma"]
        return (layer(f"{name}.shortcut") if shortcut else []) + names + layer(f"{name}.residual.6")

    def resample(name: str, time: bool) -> list[str]:
        picture, over_time = layer(f"{name}.resample.1"), layer(f"{name}.time_conv") if time else []
        return over_time + picture if name.startswith("decoder") else picture + over_time

    def middle(name: str) -> Iterator[str]:
        yield from block(f"{name}.middle.0", False)
        yield from [f"{name}.middle.1.norm.gamma", *layer(f"{name}.middle.1.to_qkv"), *layer(f"{name}.middle.1.proj")]
        yield from block(f"{name}.middle.2", False)

    def half(name: str, inner: str, widths: list[tuple[int, int]], count: int, times: list[Any]) -> Iterator[str]:
        yield from layer(f"{name}.conv1")
        if name == "decoder":
            yield from middle(name)
        place = 0
        for stage, ((before, after), time) in enumerate(zip(widths, times, strict=True)):
            for k in range(count + (time is not None)):
                at = f"{name}.{inner}.{stage}.{inner}.{k}" if config.residual else f"{name}.{inner}.{place}"
                yield from block(at, k == 0 and before != after) if k < count else resample(at, time)
                place += 1
        if name == "encoder":
            yield from middle(name)
        yield from [f"{name}.head.0.gamma", *layer(f"{name}.head.2")]

    down = [config.base_dim * m for m in (1, *config.dim_mult)]
    times = config.temporal_downsample
    yield from half("encoder", "downsamples", list(pairwise(down)), config.num_res_blocks, [*times, None])
    yield from layer("conv1") + layer("conv2")
    up = [config.decoder_base_dim * m for m in (config.dim_mult[-1], *reversed(config.dim_mult))]
    # Wan 2.1's upsamplers halve the width themselves.
    into = up[:-1] if config.residual else [up[0], *(width // 2 for width in up[1:-1])]
    yield from half(
        "decoder", "upsamples", list(zip(into, up[1:])), config.num_res_blocks + 1, [*reversed(times), None]
    )
