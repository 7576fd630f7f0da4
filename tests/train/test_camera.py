"""A condition that no code names: declared by one entry of a config, it is learnt and dropped like any other."""

from pathlib import Path

import lightning as L
import numpy as np
import pytest
import torch
from hydra.utils import instantiate

from data.manifest import Manifest, SplitManifest, write_manifest
from data.shards import Clip, encode_sample, write_shard
from gwm.condition.inputs import Conditions
from gwm.resolution import Resolution
from gwm.weights import WeightsHeader, save_weights
from tests.test_configs import composed
from tests.tiny import tiny_vae
from train.bidirectional import BidirectionalStage

FRAMES, SIDE = 20, 32
SIZE = Resolution(SIDE, SIDE)
CAMERA = "+condition@model.conditions=camera"


@pytest.fixture
def shards(tmp_path: Path) -> Path:
    """One clip whose camera moves."""
    rng = np.random.default_rng(0)
    frames = rng.integers(0, 256, (FRAMES, SIDE, SIDE, 3), np.uint8)
    clip = Clip(
        key="0", frames=frames, agent=None, user=None, reference=frames[0], truth=None, info={},
        signals={"camera": rng.normal(size=(FRAMES, 6)).astype(np.float32)},
    )  # fmt: skip
    folder = tmp_path / "shards"
    folder.mkdir()
    written = write_shard(folder / "train-000000.tar", [encode_sample(clip)])
    manifest = Manifest(
        kind="pixels", fps=24, sample_rate=24_000, resolution=SIZE, num_frames=FRAMES, seed=0, command="", generator={},
        splits={"train": SplitManifest(shards=[written], identities=[], sentences=[])},
    )  # fmt: skip
    write_manifest(folder, manifest)
    return folder


def test_a_declared_camera_is_learnt(shards: Path, tmp_path: Path):
    vae = tiny_vae()
    save_weights(tmp_path / "vae", vae.state_dict(), WeightsHeader(kind="autoencoder", config=vae.config.to_json()))
    cfg = composed(
        "train",
        ["stage=bidirectional", CAMERA, f"vae={tmp_path}/vae", f"shards={shards}", f"runs={tmp_path}", "num_frames=2",
         f"resolution={SIDE}", "data.batch_size=1", "model.dim=32", "model.num_heads=2", "model.ffn_dim=32",
         "model.num_layers=1", "model.place_grid=[]"],
    )  # fmt: skip
    stage: BidirectionalStage = instantiate(cfg.stage, _convert_="all")
    data = instantiate(cfg.data, _convert_="all")
    before = {key: value.clone() for key, value in stage.network.model.state_dict().items()}
    trainer = L.Trainer(
        accelerator="cpu", max_steps=2, logger=False, enable_checkpointing=False, enable_progress_bar=False,
        enable_model_summary=False,
    )  # fmt: skip
    trainer.fit(stage, data)
    after = stage.network.model.state_dict()
    learnt = {key for key in after if not torch.equal(after[key], before[key])}
    assert any(key.startswith("frame_embeddings.camera.") for key in learnt)
    spec = stage.contract.dit.condition("camera")
    assert spec is not None and spec.width == 4 * len(spec.names) and spec.drop_rate == 0.1
    batch = next(iter(data.train_dataloader()))
    condition = Conditions.from_flat(batch.conditions)
    assert condition["camera"].shape[-1] == spec.width and condition["camera"].abs().max() > 0
    assert not condition.dropped("camera")["camera"].any()
