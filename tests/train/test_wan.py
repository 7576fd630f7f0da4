"""From a folder as the hub has it to a causal stage, with one command line, and back to diffusers."""

import dataclasses
from pathlib import Path
from typing import Any

import lightning as L
import numpy as np
import pytest
import torch
from hydra.errors import InstantiationException
from hydra.utils import instantiate
from omegaconf import DictConfig
from torch._subclasses.fake_tensor import FakeTensorMode

from data.actions import ACTION_NAMES
from data.batch import padded
from data.manifest import Manifest, SplitManifest, write_manifest
from data.shards import Clip, Truth, encode_sample, write_shard
from gwm.condition.inputs import Conditions
from gwm.convert import load_wan, without_added
from gwm.dit import DiT
from gwm.lora import merged
from gwm.resolution import Resolution
from gwm.wan.encoders import UMT5
from gwm.wan.vae_config import WAN2_1_VAE, WAN2_2_VAE
from gwm.weights import save_weights
from tests.test_configs import composed
from tests.tiny import lively
from tests.wan import (
    FAMILIES,
    in_diffusers,
    our_velocity,
    published,
    reduced,
    save_image_encoder,
    save_text_encoder,
    their_tokens,
    their_velocity,
    with_voices,
)
from train.bench import Geometry
from train.causal import CausalStage
from train.needs import planned_contract
from train.networks import dit_header, export_diffusers

FRAMES, SIZE, TEXT = 20, Resolution(32, 64), 16
CAPTION = "a woman\u2019s  \uff21 &amp;amp; smiles"  # which Wan reads as: a woman's A & smiles


@pytest.fixture(scope="module")
def hub(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A pipeline's folder: Wan 2.1 1.3B with random weights, reduced in width and depth."""
    from diffusers import AutoencoderKLWan

    folder = tmp_path_factory.mktemp("Wan2.1-T2V-1.3B-Diffusers")
    config = dataclasses.replace(reduced("wan2_1_1_3b"), num_layers=1, ffn_dim=64)
    in_diffusers(config, text_dim=TEXT).save_pretrained(folder / "transformer", max_shard_size="1MB")
    AutoencoderKLWan(base_dim=4).save_pretrained(folder / "vae")
    return save_text_encoder(folder, width=TEXT)


@pytest.fixture(scope="module")
def shards(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("shards")
    splits = {"train": SplitManifest(shards=[shard(folder)], identities=[], sentences=[])}
    manifest = Manifest(
        kind="pixels", fps=24, sample_rate=24_000, resolution=SIZE, num_frames=FRAMES, splits=splits, seed=0,
        command="", generator={},
    )  # fmt: skip
    write_manifest(folder, manifest)
    return folder


def shard(folder: Path) -> Any:
    rng = np.random.default_rng(0)
    frames = rng.integers(0, 256, (FRAMES, *SIZE.shape, 3), np.uint8)
    voices = rng.normal(0, 0.1, (2, 1000 * FRAMES)).astype(np.float32)
    still = np.zeros((FRAMES, 3), np.float32)
    truth = Truth(
        mouth=still[:, 0], actions=np.zeros((FRAMES, len(ACTION_NAMES)), np.float32), pose=still, gaze=still[:, :2],
        agent_speaking=still[:, 0] > 0, user_speaking=still[:, 0] > 0,
    )  # fmt: skip
    info = {"identity": "1", "style": "footage", "caption": CAPTION}
    clip = Clip(
        key="0", frames=frames, agent=voices[0], user=voices[1], reference=frames[0], truth=truth, info=info
    )  # fmt: skip
    return write_shard(folder / "train-000000.tar", [encode_sample(clip)])


def configured(stage: str, hub: Path, runs: Path, *more: str, model: str = "wan2_1_1_3b") -> DictConfig:
    """What `python train.py stage=... model=... init=DIR` composes, for the reduced geometry."""
    reduction = (
        "model.dim=256",
        "model.num_heads=2",
        "model.num_layers=1",
        "model.ffn_dim=64",
        f"model.conditions.text.width={TEXT}",
    )
    return composed("train", [f"stage={stage}", f"model={model}", f"init={hub}", f"runs={runs}", *reduction, *more])


def causal(hub: Path, runs: Path, *more: str) -> CausalStage:
    torch.manual_seed(0)
    return instantiate(configured("causal", hub, runs, "resolution=32x64", *more).stage, _convert_="all")


def spoken_clip(stage: CausalStage) -> Any:
    clip = torch.randn(2, 3, 16, 4, 4), torch.rand(2, 3), Conditions(tokens={"text": torch.randn(2, 512, TEXT)})
    return with_voices(clip, speech=stage.contract.dit.speech_width, action=1)


@torch.no_grad()
def test_step_zero_of_a_causal_stage_is_the_published_model(hub: Path, tmp_path: Path):
    """With two voices that the published model never heard; and diffusers is the judge."""
    from diffusers import WanTransformer3DModel

    stage = causal(hub, tmp_path)
    clip = spoken_clip(stage)
    theirs = WanTransformer3DModel.from_pretrained(hub / "transformer")
    made = our_velocity(stage.network.model, clip)
    torch.testing.assert_close(made, their_velocity(theirs, clip), rtol=0, atol=1e-5)
    assert stage.contract.vae.latents_mean == WAN2_1_VAE.latents_mean
    assert "agent" in stage.network.model.frame_embeddings


def test_a_causal_run_trains_on_latents_and_captions_of_the_published_encoders(hub: Path, shards: Path, tmp_path: Path):
    stage = causal(hub, tmp_path)
    before = {key: value.clone() for key, value in stage.network.model.state_dict().items()}
    cfg = configured(
        "causal", hub, tmp_path, f"data.shards={shards}", "resolution=32x64", "num_frames=2", "data.batch_size=1"
    )
    data = instantiate(cfg.data, _convert_="all")
    trainer = L.Trainer(
        accelerator="cpu", max_steps=2, logger=False, enable_checkpointing=False, enable_progress_bar=False,
        enable_model_summary=False,
    )  # fmt: skip
    trainer.fit(stage, data)
    text, expected = data.clips[0]["tokens.text"], their_tokens(hub, CAPTION)
    torch.testing.assert_close(text, expected[: len(text)], rtol=1e-3, atol=1e-3)  # kept in half precision
    assert len(text) == 8 and not expected[len(text) :].any()
    still = [key for key, value in stage.network.model.state_dict().items() if torch.equal(value, before[key])]
    # Behind a last layer of zeros a first layer has no gradient in the first step, and weight decay moves no bias.
    assert all(".layers.0." in key or key.startswith("speech_encoder") for key in still), still


@pytest.mark.filterwarnings("ignore:You are trying to `self.log")
def test_a_dropped_caption_is_the_empty_caption_of_the_text_encoder(hub: Path, shards: Path, tmp_path: Path):
    """Not zeros, which umT5 writes for no caption; and without a forward pass of the text encoder in training."""
    more = (f"data.shards={shards}", "resolution=32x64", "num_frames=2", "data.batch_size=1")
    data = instantiate(configured("causal", hub, tmp_path, *more).data, _convert_="all")
    data.prepare_data()
    data.text = None  # what was encoded is enough
    data.setup("fit")
    batch = next(iter(data.train_dataloader()))
    empty = padded(UMT5(str(hub))("").half().float())
    assert torch.equal(padded(batch.conditions["nothing.text"]), empty) and not torch.equal(
        batch.condition["text"][0], empty
    )
    losses = []
    for chance, text in [(0.0, empty[None]), (0.999999, batch.condition["text"]), (0.0, batch.condition["text"])]:
        stage = causal(hub, tmp_path, f"model.conditions.text.drop_rate={chance}")
        lively(stage.network.model.head)
        stage.weight = torch.ones(4, 8)
        losses.append(
            stage.training_step(
                dataclasses.replace(batch, conditions={**batch.conditions, "tokens.text": text}), 0
            ).item()
        )
    assert losses[0] == losses[1] != losses[2]


@torch.no_grad()
def test_an_image_to_video_model_is_given_its_image(shards: Path, tmp_path: Path):
    """A batch of the stage's own data through the stage's model is what diffusers makes of it, image tokens and all."""
    from diffusers import AutoencoderKLWan

    hub, family = tmp_path / "hub", "wan2_1_i2v_14b"
    theirs = in_diffusers(reduced(family), text_dim=TEXT, image_dim=TEXT, num_layers=1, ffn_dim=64)
    theirs.save_pretrained(hub / "transformer")
    AutoencoderKLWan(base_dim=4).save_pretrained(hub / "vae")
    save_image_encoder(save_text_encoder(hub, width=TEXT), width=TEXT)
    more = (
        f"data.shards={shards}",
        "resolution=32x64",
        "num_frames=2",
        "data.batch_size=1",
        f"model.conditions.image.width={TEXT}",
    )
    cfg = configured("causal", hub, tmp_path, *more, model=family)
    stage, data = (instantiate(part, _convert_="all") for part in (cfg.stage, cfg.data))
    data.prepare_data()
    data.setup("fit")
    batch = next(iter(data.train_dataloader()))
    clip = torch.cat([batch.reference, batch.x0], 1), torch.full((1, 3), 0.5), batch.condition.after_reference()
    expected = their_velocity(theirs, clip)
    assert expected.std() > 0.1 and clip[2]["given"][:, :, :4].mean((2, 3, 4)).tolist() == [[1, 0, 0]]
    torch.testing.assert_close(our_velocity(stage.network.model, clip), expected, rtol=0, atol=1e-5)


def test_adapters_train_and_leave_a_plain_checkpoint(hub: Path, tmp_path: Path):
    stage = causal(hub, tmp_path, "+stage.network.lora={_target_: gwm.lora.LoRAConfig, rank: 2}")
    optimizer = stage.network.optimizers()["optimizer"]
    x, sigma, condition = spoken_clip(stage)
    for _ in range(2):
        optimizer.zero_grad()
        our_velocity(stage.network.model, (x, sigma, condition)).square().mean().backward()
        optimizer.step()
    model, _ = stage.weights()
    plain = merged(model)
    base = load_wan(hub)
    assert plain.state_dict().keys() == load_wan(hub, config=stage.contract.dit).state_dict().keys()
    assert not torch.equal(plain.blocks[0].ffn[0].weight, base.blocks[0].ffn[0].weight)
    assert torch.equal(model.blocks[0].ffn[0].weight, base.blocks[0].ffn[0].weight)
    with torch.no_grad():
        torch.testing.assert_close(
            our_velocity(plain, (x, sigma, condition)),
            our_velocity(model, (x, sigma, condition)),
            rtol=1e-5,
            atol=1e-5,
        )


def test_a_bidirectional_model_goes_back_to_diffusers(hub: Path, tmp_path: Path):
    """What was loaded comes out as it was: nothing was trained."""
    from diffusers import WanTransformer3DModel

    stage = instantiate(configured("bidirectional", hub, tmp_path, "resolution=32x64").stage, _convert_="all")
    weights = tmp_path / "bidirectional" / "weights"
    save_weights(weights, stage.network.model.state_dict(), dit_header(stage.contract))
    call = configured("export_diffusers", hub, tmp_path, f"init={weights}").call
    assert call._target_.endswith(export_diffusers.__name__)
    instantiate(call)
    back = WanTransformer3DModel.from_pretrained(tmp_path / "diffusers" / "transformer").state_dict()
    loaded = WanTransformer3DModel.from_pretrained(hub / "transformer").state_dict()
    assert [key for key in loaded if not torch.equal(back[key], loaded[key])] == []


def test_one_expert_of_two_is_trained_with_the_pipelines_other_parts(hub: Path, tmp_path: Path):
    """Wan 2.2 A14B: init= names the expert, base= the folder with autoencoder and text encoder."""
    folder = tmp_path / "A14B"
    folder.mkdir()
    parts = {path.name: path.name for path in hub.iterdir()} | {"transformer_2": "transformer"}
    for name, source in parts.items():
        (folder / name).symlink_to(hub / source)
    with pytest.raises(InstantiationException, match=r"two transformers.*init=\S+/transformer_2 base="):
        causal(folder, tmp_path, "resolution=32x64")
    cfg = configured("causal", folder / "transformer_2", tmp_path, "resolution=32x64", f"base={folder}")
    stage = instantiate(cfg.stage, _convert_="all")
    assert torch.equal(stage.network.model.head.weight, load_wan(hub).head.weight)
    assert stage.contract.vae.latents_mean == WAN2_1_VAE.latents_mean
    assert cfg.data.text.folder == str(folder)


def test_a_name_of_the_hub_says_how_to_download_it(tmp_path: Path):
    with pytest.raises(InstantiationException, match=r"hf download Wan-AI/Wan2\.1-T2V-1\.3B-Diffusers --local-dir"):
        causal(Path("Wan-AI/Wan2.1-T2V-1.3B-Diffusers"), tmp_path)


def test_another_model_than_the_folders_is_an_error(hub: Path, tmp_path: Path):
    with pytest.raises(
        InstantiationException, match=r"another geometry than asked for; \(file, asked\): \{'ffn_dim': \(64, 65\)\}"
    ):
        causal(hub, tmp_path, "model.ffn_dim=65")


def test_a_model_for_other_latents_is_an_error(hub: Path, tmp_path: Path):
    with pytest.raises(InstantiationException, match="in_channels=48 must be the autoencoder's latent_channels=16"):
        causal(hub, tmp_path, "model.in_channels=48")


@pytest.mark.parametrize("family", FAMILIES)
def test_a_run_is_planned_before_anything_is_downloaded(family: str):
    """For the autoencoder for whose latents the family was made."""
    cfg = composed("train", ["stage=causal", f"model={family}", "init=/nowhere", "resolution=704x1280"])
    contract = planned_contract(cfg, cfg.stage.init)
    assert without_added(contract.dit) == published(family)
    assert [spec.name for spec in contract.dit.of_rate("frame")] == ["agent", "user"]
    assert contract.vae == (WAN2_2_VAE if family == "wan2_2_ti2v_5b" else WAN2_1_VAE)


@pytest.mark.parametrize("family", FAMILIES)
def test_a_batch_is_planned_with_all_that_the_family_is_given(family: str):
    geometry = Geometry(dit=reduced(family), batch_size=1, num_frames=2, height=4, width=4, pattern=None)
    with FakeTensorMode(allow_non_fake_inputs=True):
        assert geometry.loss(DiT(geometry.dit), geometry.batch()).requires_grad
