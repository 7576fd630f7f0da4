"""Two processes train what one trains, and either goes on where the other ended."""

import json
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.data.test_encode import CLIPS, make
from tests.train.devices import on_two, train
from tests.train.test_finite import kept_step, stops_on_both
from tests.train.test_resume import weights

STEPS, HALF = 4, 2
# Sums over two processes are formed in another order; Adam divides by small numbers.
CURVE, WEIGHTS = 1e-5, 2e-4
# A frozen teacher is sharded too; an autoencoder from nothing looks at its data before it is.
PAIRS = [("causal", "ddp"), ("causal", "fsdp"), ("consistency", "fsdp"), ("autoencoder", "fsdp")]
pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Every run that the tests compare; one start of the pair of processes costs more than all of them."""
    folder = tmp_path_factory.mktemp("runs")
    folders = weights(folder)
    shards = make(folder / "shards", CLIPS)
    plan: dict[str, partial[None]] = {}

    def add(
        run: str, name: str, strategy: str, *, max_steps: int = STEPS, resume: str | None = None, **how: Any
    ) -> None:
        checkpoint = None if resume is None else folder / resume
        plan[run] = partial(
            train, folder / run, name=name, folders=folders, strategy=strategy, max_steps=max_steps,
            resume=checkpoint, shards=shards, **how,
        )  # fmt: skip

    for name in ("causal", "consistency", "autoencoder"):
        add(f"{name}-one", name, "one")
    add("causal-passes", "causal", "one", device_batch=1)
    add("causal-checkpointed", "causal", "one", checkpointed=True)
    for run in plan.values():
        run()
    alone = set(plan)
    for name, strategy in PAIRS:
        add(f"{name}-{strategy}", name, strategy)
        add(f"{name}-one-{strategy}", name, strategy, resume=f"{name}-one/step={HALF}.ckpt")
    add("causal-fsdp-passes", "causal", "fsdp", device_batch=1)
    stops = partial(stops_on_both, folder / "stopped", folders)
    on_two([*(run for key, run in plan.items() if key not in alone), stops])
    alone = set(plan)
    for name, strategy in PAIRS:
        add(f"{name}-{strategy}-one", name, "one", resume=f"{name}-{strategy}/step={HALF}.ckpt")
    add("causal-fsdp-passes-one", "causal", "one", resume=f"causal-fsdp-passes/step={HALF}.ckpt")
    add("causal-one-passes", "causal", "one", device_batch=2, resume=f"causal-one/step={HALF}.ckpt")
    for key, run in plan.items():
        if key not in alone:
            run()
    return folder


def curve(runs: Path, run: str) -> list[float]:
    return json.loads((runs / run / "curve.json").read_text())


def weights_of(runs: Path, run: str) -> dict[str, torch.Tensor]:
    return torch.load(runs / run / "last.ckpt", weights_only=False)["state_dict"]


@pytest.mark.parametrize(
    "run",
    [
        "causal-passes", "causal-checkpointed", "causal-ddp", "causal-fsdp", "causal-fsdp-passes", "consistency-fsdp",
        "autoencoder-fsdp",
    ],
)  # fmt: skip
def test_the_loss_curve_is_that_of_one_process(runs: Path, run: str):
    expected = curve(runs, f"{run.partition('-')[0]}-one")
    assert len(expected) == STEPS and len(set(expected)) == STEPS
    assert curve(runs, run) == pytest.approx(expected, rel=CURVE)


@pytest.mark.parametrize(
    "run",
    [
        *(f"{name}-one-{strategy}" for name, strategy in PAIRS),
        *(f"{name}-{strategy}-one" for name, strategy in PAIRS),
        "causal-fsdp-passes-one",
        "causal-one-passes",
    ],
)
def test_a_checkpoint_goes_on_with_another_number_of_processes_or_passes(runs: Path, run: str):
    """Weights, averages, optimizer, loader: the rest of the curve and the end are those of the uninterrupted run."""
    name = run.partition("-")[0]
    assert curve(runs, run)[-(STEPS - HALF) :] == pytest.approx(curve(runs, f"{name}-one")[HALF:], rel=CURVE)
    found, expected = weights_of(runs, run), weights_of(runs, f"{name}-one")
    assert found.keys() == expected.keys()
    for key, value in expected.items():
        torch.testing.assert_close(found[key], value, rtol=WEIGHTS, atol=WEIGHTS, msg=key)


def test_sharded_checkpoints_are_whole_files(runs: Path):
    """The same keys and shapes as one process writes: any tool that reads the one reads the other."""
    for name in ("causal", "consistency"):
        sharded, alone = (torch.load(runs / f"{name}-{way}/last.ckpt", weights_only=False) for way in ("fsdp", "one"))
        shapes = [{key: value.shape for key, value in made["state_dict"].items()} for made in (sharded, alone)]
        assert shapes[0] == shapes[1]
        for mine, theirs in zip(sharded["optimizer_states"], alone["optimizer_states"], strict=True):
            assert mine["state"].keys() == theirs["state"].keys() and mine["state"]
            assert all(mine["state"][n]["exp_avg"].shape == theirs["state"][n]["exp_avg"].shape for n in mine["state"])


def test_both_devices_stop_where_one_meets_a_number_that_is_not_finite(runs: Path):
    assert {path.name for path in (runs / "stopped").glob("stopped*")} == {"stopped0", "stopped1"}
    assert kept_step(runs / "stopped") == 4
