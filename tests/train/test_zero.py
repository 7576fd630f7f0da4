"""ZeRO on two processes trains what one process trains without it, and either goes on where the other ended."""

import json
import sys
from functools import partial
from importlib.util import find_spec
from pathlib import Path

import pytest
import torch

from gwm.optional import MissingPackageError
from tests.train.devices import on_two, train
from tests.train.test_resume import weights
from train.zero import ZeroPrecision, ZeroStrategy

STEPS, HALF = 4, 2
# Sums over two processes are formed in another order; Adam divides by small numbers.
CURVE, WEIGHTS = 1e-5, 2e-4
needs_deepspeed = pytest.mark.skipif(find_spec("deepspeed") is None, reason="DeepSpeed is not installed")


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One process alone; two with ZeRO, from the start, in two passes, and from the first one's checkpoint; one again,
    from theirs."""
    folder = tmp_path_factory.mktemp("runs")
    run = partial(train, name="consistency", folders=weights(folder), max_steps=STEPS)  # with a frozen teacher
    run(folder / "one", strategy="one")
    on_two(
        [
            partial(run, folder / "zero", strategy="zero"),
            partial(run, folder / "zero-passes", strategy="zero", device_batch=1),
            partial(run, folder / "one-zero", strategy="zero", resume=folder / "one" / f"step={HALF}.ckpt"),
        ]
    )
    run(folder / "zero-one", strategy="one", resume=folder / "zero" / f"step={HALF}.ckpt")
    return folder


@pytest.mark.slow
@needs_deepspeed
@pytest.mark.parametrize("name", ["zero", "zero-passes", "one-zero", "zero-one"])
def test_the_loss_curve_and_the_end_are_those_of_one_process(runs: Path, name: str):
    expected, found = (json.loads((runs / run / "curve.json").read_text()) for run in ("one", name))
    assert len(expected) == STEPS and len(set(expected)) == STEPS
    assert found == pytest.approx(expected[-len(found) :], rel=CURVE) and len(found) >= STEPS - HALF
    states = [torch.load(runs / run / "last.ckpt", weights_only=False)["state_dict"] for run in ("one", name)]
    assert states[0].keys() == states[1].keys()
    for key, value in states[0].items():
        torch.testing.assert_close(states[1][key], value, rtol=WEIGHTS, atol=WEIGHTS, msg=key)


@pytest.mark.slow
@needs_deepspeed
def test_checkpoints_are_those_of_one_process(runs: Path):
    """Weights, averages and the optimizer, each whole, in one file."""
    zero, one = (
        torch.load(runs / name / "last.ckpt", weights_only=False)["optimizer_states"] for name in ("zero", "one")
    )
    assert zero[0]["state"].keys() == one[0]["state"].keys() and zero[0]["state"]
    for number, state in one[0]["state"].items():
        for key, value in state.items():
            torch.testing.assert_close(zero[0]["state"][number][key], value, rtol=1e-3, atol=1e-5)


def test_a_missing_package_is_named_with_its_command(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setitem(sys.modules, "deepspeed", None)  # as if it were not installed
    with pytest.raises(MissingPackageError, match=r"'deepspeed' is not installed.*pip install 'gwm\[scale\]'"):
        ZeroStrategy()


@pytest.mark.parametrize(("precision", "products"), [("bf16-mixed", torch.bfloat16), ("32-true", torch.float32)])
def test_only_products_are_rounded(precision: str, products: torch.dtype):
    """Weights, and what goes in, stay in full precision."""
    made = ZeroPrecision(precision, torch.device("cpu"))
    layer, x = made.convert_module(torch.nn.Linear(2, 2)), made.convert_input(torch.randn(1, 2))
    with made.forward_context():
        assert layer(x).dtype == products
    assert layer.weight.dtype == x.dtype == torch.float32
