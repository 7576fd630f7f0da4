"""Runs of a tiny stage on one process or on two that talk through gloo."""

import json
import os
import socket
from functools import partial
from pathlib import Path
from typing import Any

import lightning as L
import torch
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.strategies import DDPStrategy
from torch import multiprocessing

from tests.tiny import VAE_SHAPE
from tests.train.test_resume import LatentsInMemory, PixelsInMemory, network, stage
from train.autoencoder import AutoencoderStage
from train.checkpoint import AtomicCheckpointIO
from train.measure import checkpoint_blocks
from train.sharding import ShardedStrategy
from train.throughput import Accumulation, Throughput
from train.zero import ZeroStrategy

BATCH = 4
STRATEGIES = {"one": lambda: "auto", "ddp": DDPStrategy, "fsdp": ShardedStrategy, "zero": ZeroStrategy}


class Curve(L.Callback):
    """Mean loss of every update."""

    def __init__(self) -> None:
        self.losses: list[float] = []

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self.step = trainer.global_step

    def on_train_batch_end(self, trainer: L.Trainer, *_: Any) -> None:
        if self.step < trainer.global_step:
            self.step = trainer.global_step
            self.losses.append(float(trainer.callback_metrics["train/batch_loss"]))


def autoencoder() -> AutoencoderStage:
    """From nothing: its patches are fitted to the shards before the first step."""
    return AutoencoderStage(
        config=VAE_SHAPE, init=None, latent_noise=0.1, latent_penalty=1e-3, motion=1.0, gradient=1.0, change=1.0,
        network=network(), seed=0,
    )  # fmt: skip


def train(
    folder: Path,
    *,
    name: str,
    folders: dict[str, str],
    strategy: str,
    max_steps: int,
    device_batch: int | None = None,
    resume: Path | None = None,
    checkpointed: bool = False,
    shards: Path = Path(),
) -> None:
    """Leave `last.ckpt`, a checkpoint of every second step, and `curve.json`."""
    torch.manual_seed(2)
    pixels = name == "autoencoder"
    module, curve = autoencoder() if pixels else stage(name, folders), Curve()
    if checkpointed:
        assert checkpoint_blocks([module])
    checkpoint = ModelCheckpoint(folder, filename="{step}", every_n_train_steps=2, save_top_k=-1)
    throughput = Throughput(build=None, precision="32-true", device_flops=None)
    trainer = L.Trainer(
        accelerator="cpu", devices=1 if strategy == "one" else 2, strategy=STRATEGIES[strategy](), max_steps=max_steps,
        max_epochs=-1, logger=False, enable_progress_bar=False, enable_model_summary=False, gradient_clip_val=1.0,
        use_distributed_sampler=False, callbacks=[Accumulation(), throughput, curve, checkpoint],
        plugins=[AtomicCheckpointIO()],
    )  # fmt: skip
    kind = PixelsInMemory if pixels else LatentsInMemory
    data = kind(shards=str(shards), batch_size=BATCH, num_workers=0, seed=0, device_batch=device_batch)
    trainer.fit(module, data, ckpt_path=resume, weights_only=False)
    trainer.save_checkpoint(folder / "last.ckpt")
    if trainer.global_rank == 0:
        (folder / "curve.json").write_text(json.dumps(curve.losses))


def on_two(runs: list[partial[None]]) -> None:
    """All runs, one after the other, on the same pair of processes."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    # A fork has every module already; with CUDA in use it could not train.
    method = "spawn" if torch.cuda.is_initialized() else "fork"
    multiprocessing.start_processes(_process, (runs, port), nprocs=2, start_method=method)


def _process(rank: int, runs: list[partial[None]], port: int) -> None:
    torch.set_num_threads(1)
    os.environ |= {
        "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "WORLD_SIZE": "2", "LOCAL_WORLD_SIZE": "2",
        "RANK": str(rank), "LOCAL_RANK": str(rank), "GROUP_RANK": "0", "TORCHELASTIC_RUN_ID": "test",
    }  # fmt: skip
    for run in runs:
        run()
