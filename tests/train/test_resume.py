"""N + M steps are N steps, a kill, and M steps: bit for bit, for every stage."""

from functools import partial
from pathlib import Path
from typing import Any

import lightning as L
import pytest
import torch
from lightning.pytorch.callbacks import ModelCheckpoint
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from data.batch import LatentBatch, LatentData, PixelBatch, StepData
from data.speech.visemes import viseme_actions
from data.speech_batches import VoiceBatch
from distill.consistency import ConsistencyStage
from distill.dmd import DMDRules
from distill.dmd_stage import DMDStage
from distill.gan import GAN
from distill.regression import RegressionStage
from distill.windows import FromReference
from gwm.chunks import ChunkPattern, whole_clip
from gwm.condition.speech_encoder import SpeechEncoder
from gwm.guidance import Guidance
from gwm.weights import WeightsHeader, save_weights
from tests.tiny import AUDIO, DIT, GRID, RESOLUTION, SPEECH, VAE_SHAPE, contract, tiny_dit, tiny_vae
from train.autoencoder import AutoencoderStage
from train.bidirectional import BidirectionalStage
from train.causal import CausalStage
from train.checkpoint import AtomicCheckpointIO
from train.learner import Learner
from train.networks import dit_header
from train.speech import SpeechStage

FRAMES, BATCH = 3, 2
NUM_VISEMES = len(viseme_actions())
RULES = DMDRules(
    normaliser="sample", normaliser_floor=1e-3, guidance=Guidance(agent=2.0), shift=2.0, sigma_range=(0.02, 0.98)
)


class Drawn(Dataset[Any]):
    """Samples that are a function of their index."""

    def __init__(self, shapes: dict[str, tuple[int, ...]]) -> None:
        self.shapes = shapes

    def __getitem__(self, key: tuple[int, int, int]) -> dict[str, Any]:
        step, slot, index = key
        source = torch.Generator().manual_seed(index)
        return {name: torch.randn(shape, generator=source) for name, shape in self.shapes.items()} | {
            "step": step, "slot": slot,
        }  # fmt: skip


def stacked(items: list[dict[str, Any]], name: str) -> Tensor:
    return torch.stack([item[name] for item in items])


def place(items: list[dict[str, Any]]) -> dict[str, int]:
    return {"step": items[0]["step"], "first_slot": items[0]["slot"]}


class PixelsInMemory(StepData):
    def train_dataloader(self) -> DataLoader[Any]:
        dataset = Drawn({"pixel_frames": (8, 3, 16, 16)})
        return self.loader(dataset, 10, lambda items: PixelBatch(stacked(items, "pixel_frames"), **place(items)))


class VoicesInMemory(StepData):
    def train_dataloader(self) -> DataLoader[Any]:
        dataset = Drawn({"windows": (FRAMES, SPEECH), "visemes": (FRAMES, 4, NUM_VISEMES)})
        return self.loader(
            dataset,
            10,
            lambda items: VoiceBatch(
                stacked(items, "windows"), stacked(items, "visemes").softmax(-1), step=items[0]["step"]
            ),
        )


class LatentsInMemory(LatentData):
    def __init__(self, **how: Any) -> None:
        StepData.__init__(self, **how)
        self.num_frames = FRAMES
        self.motion = torch.ones(GRID)
        self.text = self.image = None
        self.actions = ()
        self.clips = [
            {name: value for name, value in self.drawn[0, 0, index].items() if isinstance(value, torch.Tensor)}
            for index in range(10)
        ]

    @property
    def drawn(self) -> Drawn:
        shape = (DIT.in_channels, *GRID)
        speech = (FRAMES, DIT.speech_width)
        return Drawn({"x0": (FRAMES, *shape), "reference": (1, *shape), "frame.agent": speech, "frame.user": speech})

    def prepare_data(self) -> None: ...

    def setup(self, stage: str) -> None: ...

    def train_dataloader(self) -> DataLoader[Any]:
        voices = ("frame.agent", "frame.user")
        return self.loader(
            self.drawn,
            10,
            lambda items: LatentBatch(
                stacked(items, "x0"),
                stacked(items, "reference"),
                {n: stacked(items, n) for n in voices},
                **place(items),
            ),
        )


def network(**how: Any) -> partial[Any]:
    # A larger eps than usual: sums in another order do not show, and a gradient of the wrong scale does.
    adam = partial(torch.optim.AdamW, lr=1e-2, eps=1e-5)
    return partial(Learner, optimizer=adam, schedule_steps=8, warmup_steps=2, ema_decay=0.9, **how)


HEAD = partial(GAN, layers=[0, 1], width=8, weight=0.1, head=network())


def weights(tmp_path: Path) -> dict[str, str]:
    """Folders of an autoencoder, a speech encoder, a bidirectional and a causal model, all random."""
    torch.manual_seed(1)
    folders = {name: tmp_path / name / "weights" for name in ("autoencoder", "speech", "bidirectional", "causal")}
    save_weights(
        folders["autoencoder"], tiny_vae().state_dict(), WeightsHeader(kind="autoencoder", config=VAE_SHAPE.to_json())
    )
    encoder = SpeechEncoder(SPEECH, AUDIO.num_mels)
    save_weights(folders["speech"], encoder.state_dict(), WeightsHeader(kind="speech", config=AUDIO.to_json()))
    patterns = {
        "bidirectional": whole_clip(FRAMES + 1, first_frames=1),
        "causal": ChunkPattern(chunk_frames=1, window_chunks=3, sink_chunks=1, first_frames=1),
    }
    for name, pattern in patterns.items():
        header = dit_header(contract(FRAMES, pattern=pattern, solver="ode"))
        save_weights(folders[name], tiny_dit().state_dict(), header)
    return {name: str(folder) for name, folder in folders.items()}


def stage(name: str, folders: dict[str, str]) -> L.LightningModule:
    flow = {"motion_weight": 0.5, "shift": 2.0, "seed": 0}
    if name == "autoencoder":
        return AutoencoderStage(
            config=VAE_SHAPE, init=folders["autoencoder"], latent_noise=0.1, latent_penalty=1e-3, motion=1.0,
            gradient=1.0, change=1.0, network=network(), seed=0,
        )  # fmt: skip
    if name == "bidirectional":
        voices = {"agent": {"rate": "frame", "encoder": "speech", "drop_rate": 0.5}}
        voices |= {"user": {"rate": "frame", "encoder": "speech"}}
        shape = {"dim": 16, "ffn_dim": 24, "num_heads": 2, "num_layers": 1, "conditions": voices}
        return BidirectionalStage(
            vae=folders["autoencoder"], speech=folders["speech"], audio=AUDIO, model=shape, resolution=RESOLUTION,
            num_frames=FRAMES, num_steps=2, network=network(), **flow,
        )  # fmt: skip
    if name == "speech":
        return SpeechStage(audio=AUDIO, network=network())
    if name == "causal":
        pattern = ChunkPattern(chunk_frames=1, window_chunks=3, sink_chunks=1, first_frames=1)
        return CausalStage(
            init=folders["bidirectional"], pattern=pattern, num_steps=2, history_noise=0.3,
            network=network(), **flow,
        )  # fmt: skip
    if name == "consistency":
        return ConsistencyStage(
            init=folders["causal"], sigmas=[1.0, 0.5], num_levels=4, guidance=Guidance(agent=2.0), history_noise=0.3,
            network=network(), **flow,
        )  # fmt: skip
    if name == "regression":
        return RegressionStage(
            init=folders["causal"], teacher=folders["causal"], motion_weight=0.5, network=network(), seed=0
        )
    if name == "dmd_gan":
        return dmd(folders, gan=HEAD)
    return dmd(folders)


def dmd(folders: dict[str, str], **changes: Any) -> DMDStage:
    how = {
        "init": folders["causal"], "teacher": folders["bidirectional"], "sigmas": [1.0, 0.5], "solver": "renoise",
        "context": "clean", "noise": "held", "exit": "uniform", "gradient": "detach",
        "windows": FromReference(), "rules": RULES,
        "critic_per_student": 3, "max_steps": 32, "clip_norm": 1.0, "alarm": None, "student": network(),
        "critic": network(), "seed": 0,
    }  # fmt: skip
    return DMDStage(**(how | changes))


def run(module: L.LightningModule, *, max_steps: int, folder: Path, resume: Path | None = None) -> L.LightningModule:
    """Train as train.py does; the folder gets a checkpoint every four optimizer steps, and last.ckpt at the end."""
    kinds = {AutoencoderStage: PixelsInMemory, SpeechStage: VoicesInMemory}
    kind = kinds.get(type(module), LatentsInMemory)
    checkpoint = ModelCheckpoint(folder, filename="{step}", every_n_train_steps=4, save_top_k=-1)
    trainer = L.Trainer(
        accelerator="cpu", max_steps=max_steps, max_epochs=-1, logger=False, enable_progress_bar=False,
        enable_model_summary=False, callbacks=[checkpoint], plugins=[AtomicCheckpointIO()],
    )  # fmt: skip
    data = kind(shards=".", batch_size=BATCH, num_workers=0, seed=0)
    trainer.fit(module, data, ckpt_path=resume, weights_only=False)
    trainer.save_checkpoint(folder / "last.ckpt")
    return module


@pytest.mark.parametrize(
    "name", ["autoencoder", "speech", "bidirectional", "causal", "consistency", "dmd", "dmd_gan", "regression"]
)
def test_a_resumed_run_equals_an_uninterrupted_one(name: str, tmp_path: Path):
    """Killed after a checkpoint in mid-run; and ended, then prolonged."""
    folders = weights(tmp_path)

    def fresh() -> L.LightningModule:
        torch.manual_seed(2)
        return stage(name, folders)

    expected = run(fresh(), max_steps=10, folder=tmp_path / "whole").state_dict()
    assert any(not torch.equal(v, expected[k]) for k, v in fresh().state_dict().items()), "nothing was trained"
    run(fresh(), max_steps=4, folder=tmp_path / "ended")
    for checkpoint in (tmp_path / "whole" / "step=4.ckpt", tmp_path / "ended" / "last.ckpt"):
        resumed = run(fresh(), max_steps=10, folder=tmp_path / "resumed", resume=checkpoint).state_dict()
        assert [key for key, value in resumed.items() if not torch.equal(value, expected[key])] == [], checkpoint
