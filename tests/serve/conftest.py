"""A tiny model with random weights, as a stage would leave it and as an artifact."""

import dataclasses
from pathlib import Path

import numpy as np
import pytest
from torch import nn

from gwm.autoencoders.haar import HaarAutoencoder, HaarConfig
from gwm.chunks import ChunkPattern
from gwm.config import AudioConfig, DiTConfig
from gwm.contract import Contract
from gwm.dit import DiT
from gwm.resolution import Resolution
from gwm.weights import WeightsHeader, save_weights
from serve.artifact import Artifact, load_artifact
from serve.engine import Engine
from serve.export import export
from tests.tiny import voices as spoken
from train.networks import dit_header


def randomised(model: nn.Module) -> nn.Module:
    """Also layers that start at zero get weights: otherwise sound would not reach the picture."""
    for parameter in model.parameters():
        nn.init.normal_(parameter, std=parameter[0].numel() ** -0.5 if parameter.ndim > 1 else 0.1)
    return model.eval().requires_grad_(False)


def tiny_contract(**changes: int) -> Contract:
    audio = AudioConfig(num_mels=8, hops_per_frame=2)
    vae = HaarConfig(channels=(8, 8, 16), latents_std=(0.5,) * 64)
    shape = {"dim": 48, "ffn_dim": 64, "num_heads": 4, "num_layers": 2}
    dit = DiTConfig(
        in_channels=vae.latent_channels,
        conditions=spoken(audio.window_features(vae.temporal_stride)),
        speech_mels=audio.num_mels,
        around_reference=True,
        place_grid=(2, 3),
        **shape,
    )
    pattern = ChunkPattern(window_chunks=4, sink_chunks=1, first_frames=1, **changes)
    return Contract(
        dit=dit,
        vae=vae,
        audio=audio,
        pattern=pattern,
        resolution=Resolution(32, 48),
        sigmas=(1.0, 0.6),
        solver="renoise",
        context="clean",
        horizon_frames=6,
    )


def started(artifact: Artifact, portrait: np.ndarray, voices: tuple[np.ndarray, np.ndarray], **options: int) -> Engine:
    """An engine that has started and has sound for several chunks."""
    engine = Engine(artifact, **options)
    engine.start(portrait)
    engine.push(*(np.tile(voice, 4) for voice in voices))
    return engine


@pytest.fixture(params=[1, 2], ids=["chunk_of_1", "chunk_of_2"])
def contract(request: pytest.FixtureRequest) -> Contract:
    return tiny_contract(chunk_frames=request.param)


@pytest.fixture
def trained(contract: Contract) -> tuple[DiT, HaarAutoencoder]:
    return randomised(DiT(contract.dit)), randomised(HaarAutoencoder(contract.vae))


@pytest.fixture
def run(trained: tuple[DiT, HaarAutoencoder], contract: Contract, tmp_path: Path) -> Path:
    """What the stages leave under runs/<name>."""
    dit, vae = trained
    folder = tmp_path / "nano"
    student = dataclasses.replace(dit_header(contract), gate={"lip_sync": 0.5})
    save_weights(folder / "dmd" / "weights", dit.state_dict(), student)
    header = WeightsHeader(kind="autoencoder", config=contract.vae.to_json(), gate={"lip_sync": 0.9})
    save_weights(folder / "autoencoder" / "weights", vae.state_dict(), header)
    return folder


@pytest.fixture
def folder(run: Path) -> Path:
    """An artifact."""
    export(str(run / "dmd" / "weights"), str(run / "autoencoder" / "weights"), str(run / "artifact"))
    return run / "artifact"


@pytest.fixture
def artifact(folder: Path) -> Artifact:
    return load_artifact(folder, device="cpu")


@pytest.fixture
def portrait() -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (32, 48, 3), dtype=np.uint8)


@pytest.fixture
def voices() -> tuple[np.ndarray, np.ndarray]:
    """Noise of changing loudness, 23.4 pixel frames of both sides."""
    rng = np.random.default_rng(1)
    loud = np.abs(np.sin(np.arange(23_400) / 2_000))
    agent, user = (rng.standard_normal(23_400) * 0.1 * loud).astype(np.float32), rng.standard_normal(23_400) * 0.05
    return agent, user.astype(np.float32)
