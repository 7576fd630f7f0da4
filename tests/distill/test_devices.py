"""Two optimizers on two processes: DMD ends where one process ends."""

from functools import partial
from pathlib import Path
from typing import Any

import lightning as L
import pytest
import torch
from lightning.pytorch.strategies import DDPStrategy

from tests.train.devices import on_two
from tests.train.test_resume import LatentsInMemory, stage, weights
from train.checkpoint import AtomicCheckpointIO
from train.division import DividedBatch
from train.sharding import ShardedStrategy

STEPS = 6  # of both optimizers: four batches, two of them the student's
# Sums over two processes are formed in another order; Adam divides by small numbers.
WEIGHTS = 2e-4
STRATEGIES: dict[str, Any] = {
    "one": lambda: "auto",
    "ddp": partial(DDPStrategy, find_unused_parameters=True),  # each loss reaches one of two networks
    "fsdp": ShardedStrategy,
}
pytestmark = pytest.mark.slow


def train(folder: Path, *, folders: dict[str, str], strategy: str) -> None:
    torch.manual_seed(2)
    trainer = L.Trainer(
        accelerator="cpu", devices=1 if strategy == "one" else 2, strategy=STRATEGIES[strategy](), max_steps=STEPS,
        max_epochs=-1, logger=False, enable_progress_bar=False, enable_model_summary=False, enable_checkpointing=False,
        use_distributed_sampler=False, callbacks=[DividedBatch()], plugins=[AtomicCheckpointIO()],
    )  # fmt: skip
    trainer.fit(stage("dmd", folders), LatentsInMemory(shards=".", batch_size=4, num_workers=0, seed=0))
    trainer.save_checkpoint(folder / "last.ckpt")


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("runs")
    folders = weights(folder)
    train(folder / "one", folders=folders, strategy="one")
    on_two([partial(train, folder / name, folders=folders, strategy=name) for name in ("ddp", "fsdp")])
    return folder


@pytest.mark.parametrize("strategy", ["ddp", "fsdp"])
def test_two_processes_end_where_one_ends(runs: Path, strategy: str):
    expected, found = (torch.load(runs / name / "last.ckpt", weights_only=False) for name in ("one", strategy))
    assert found["state_dict"].keys() == expected["state_dict"].keys()
    for key, value in expected["state_dict"].items():
        torch.testing.assert_close(found["state_dict"][key], value, rtol=WEIGHTS, atol=WEIGHTS, msg=key)
    assert [len(state["state"]) > 0 for state in found["optimizer_states"]] == [True, True]
