"""Two optimizers on two processes: DMD ends where one process ends."""

from copy import deepcopy
from functools import partial
from pathlib import Path
from typing import Any

import lightning as L
import pytest
import torch
from lightning.pytorch.strategies import DDPStrategy

from distill.windows import StreamingWindows
from tests.distill.test_roles import BOTH, adapted_weights, stage
from tests.train.devices import on_two
from tests.train.test_resume import HEAD, LatentsInMemory
from train.checkpoint import AtomicCheckpointIO
from train.sharding import ShardedStrategy
from train.throughput import Accumulation

STEPS = 6  # of both optimizers: four batches, two of them the student's
# Sums over two processes are formed in another order; Adam divides by small numbers.
WEIGHTS = 2e-4
STRATEGIES: dict[str, Any] = {
    "one": lambda: "auto",
    "ddp": partial(DDPStrategy, find_unused_parameters=True),  # each loss reaches one of two networks
    "fsdp": ShardedStrategy,
}


ROLES: dict[str, dict[str, Any]] = {
    "whole": {},
    "adapters": {"lora": BOTH},
    "host": {"lora": BOTH | {"student_base": "own"}, "offload": True},
    "gan": {"gan": partial(HEAD, weight=10.0)},  # so strong that what it says shows in the student's weights
    "streams": {"windows": StreamingWindows(stream_frames=9, overlap_frames=1)},
}
PAIRS = [
    *(("whole", "ddp"), ("whole", "fsdp"), ("adapters", "ddp"), ("adapters", "fsdp"), ("host", "ddp")),
    *(("gan", "ddp"), ("gan", "fsdp"), ("streams", "ddp")),
]
pytestmark = pytest.mark.slow


def train(
    folder: Path, *, folders: dict[str, str], roles: str, strategy: str, max_steps: int = STEPS,
    resume: Path | None = None,
) -> None:  # fmt: skip
    trainer = L.Trainer(
        accelerator="cpu", devices=1 if strategy == "one" else 2, strategy=STRATEGIES[strategy](), max_steps=max_steps,
        max_epochs=-1, logger=False, enable_progress_bar=False, enable_model_summary=False, enable_checkpointing=False,
        use_distributed_sampler=False, callbacks=[Accumulation()], plugins=[AtomicCheckpointIO()],
    )  # fmt: skip
    data = LatentsInMemory(shards=".", batch_size=4, num_workers=0, seed=0)
    trainer.fit(stage(folders, **deepcopy(ROLES[roles])), data, ckpt_path=resume, weights_only=False)
    trainer.save_checkpoint(folder / "last.ckpt")


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("runs")
    folders = adapted_weights(folder)
    for roles in ROLES:
        train(folder / roles / "one", folders=folders, roles=roles, strategy="one")
    for roles in ("adapters", "streams"):
        train(folder / "half" / roles, folders=folders, roles=roles, strategy="one", max_steps=STEPS // 2)
    jobs = [partial(train, folder / r / name, folders=folders, roles=r, strategy=name) for r, name in PAIRS]
    jobs += [
        partial(
            train, folder / roles / "resumed", folders=folders, roles=roles, strategy=strategy,
            resume=folder / "half" / roles / "last.ckpt",
        )
        for roles, strategy in (("adapters", "fsdp"), ("streams", "ddp"))
    ]  # fmt: skip
    half = folder / "half" / "streams-ddp"
    streams = partial(train, folders=folders, roles="streams", strategy="ddp")
    jobs += [
        partial(streams, half, max_steps=STEPS // 2),
        partial(streams, folder / "streams" / "again", resume=half / "last.ckpt"),
    ]
    on_two(jobs)
    return folder


# The last one began on one device, which left a checkpoint of its adapters alone.
@pytest.mark.parametrize(("roles", "strategy"), [*PAIRS, ("adapters", "resumed")])
def test_two_processes_end_where_one_ends(runs: Path, roles: str, strategy: str):
    expected, found = (torch.load(runs / roles / name / "last.ckpt", weights_only=False) for name in ("one", strategy))
    assert found["state_dict"].keys() == expected["state_dict"].keys()
    for key, value in expected["state_dict"].items():
        torch.testing.assert_close(
            found["state_dict"][key], value, rtol=WEIGHTS, atol=WEIGHTS, msg=lambda said, key=key: f"{key}: {said}"
        )
    assert [len(state["state"]) > 0 for state in found["optimizer_states"]] == [True] * (3 if roles == "gan" else 2)


def test_the_heads_pull_shows(runs: Path):
    """Else the runs with a discriminator would prove nothing."""
    plain, pulled = (
        torch.load(runs / r / "one" / "last.ckpt", weights_only=False)["state_dict"] for r in ("whole", "gan")
    )
    key = "network.model.head.weight"
    assert (plain[key] - pulled[key]).abs().max() > 10 * WEIGHTS


def test_streams_begin_anew_on_another_number_of_devices(runs: Path):
    """No device has another's samples."""
    alone, divided = (
        torch.load(runs / folder / "last.ckpt", weights_only=False) for folder in ("half/streams", "streams/resumed")
    )
    assert (len(alone["windows"]), len(divided["windows"])) == (1, 2)
    assert divided["global_step"] == STEPS


def test_streams_of_two_devices_go_on_after_a_checkpoint(runs: Path):
    """Bit for bit: each device with its own draw, keys and last frames."""
    whole, resumed = (
        torch.load(runs / "streams" / name / "last.ckpt", weights_only=False)["state_dict"] for name in ("ddp", "again")
    )
    assert [name for name, value in whole.items() if not torch.equal(value, resumed[name])] == []
