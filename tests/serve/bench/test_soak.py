import gc

import pytest
import torch

from gwm.rollout import Rollout
from serve.bench import soak as module
from serve.bench.case import Case
from serve.bench.soak import Soak, soak, worst_angle
from serve.bench.timing import Stopwatch
from serve.bench.workload import make
from tests.tiny import contract, tiny_dit

CPU = torch.device("cpu")
CASE = Case(shape="one_layer", height=32, width=32, window_frames=5, steps=1, decoder=False)


def live_tensors() -> int:
    gc.collect()
    return sum(issubclass(type(thing), torch.Tensor) for thing in gc.get_objects())


@pytest.fixture(autouse=True)
def few_looks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each collects garbage first, which takes half a second among all that the tests have imported."""
    monkeypatch.setattr(module, "LOOKS", 4)


@torch.no_grad()
def test_a_chunk_leaves_no_tensor_behind():
    """Deterministic, where the memory of a process is not."""
    workload = make(CASE, CPU)
    workload.fill()
    before = live_tensors()
    for _ in range(20):
        workload.denoise()
    assert live_tensors() == before


@torch.no_grad()
def test_a_soak_reports_what_could_drift():
    made = soak(Soak(case=CASE, chunks=60), Stopwatch(CPU), rounds=10)
    assert made["finite"] and made["worst_angle"] < 1e-6
    assert list(made["chunk_ms"]) == ["at 15", "at 30"]
    assert list(made["times as long as 'at 15'"]) == ["at 30"]


@torch.no_grad()
def test_a_soak_runs_every_chunk_it_names(monkeypatch: pytest.MonkeyPatch):
    """What is timed counts: the memory of 60 chunks is that of 60 chunks."""
    frames = []
    monkeypatch.setattr(module, "worst_angle", lambda rollout, _: frames.append(rollout.frame))
    soak(Soak(case=CASE, chunks=60), Stopwatch(CPU), rounds=10)
    assert frames == [1 + 60]


@torch.no_grad()
def test_the_angle_of_a_stream_without_reduction_would_be_wrong(monkeypatch: pytest.MonkeyPatch):
    """Guards the oracle: float32 angles miss the bound by far."""

    def careless(frame: torch.Tensor, rows: int, columns: int, head_dim: int) -> tuple[torch.Tensor, torch.Tensor]:
        count = module.axis_pairs(head_dim)[0]
        angle = frame.float()[:, None] * module.THETA ** (-torch.arange(count) / count)
        return angle.cos().repeat_interleave(2, -1), angle.sin().repeat_interleave(2, -1)

    rollout = Rollout(tiny_dit(), contract())
    exact = worst_angle(rollout, [99_999])
    monkeypatch.setattr(module, "rotation", careless)
    assert exact < 1e-6 < 1e-5 < worst_angle(rollout, [99_999])


@torch.no_grad()
def test_a_soaked_chunk_is_a_chunk_of_the_engine():
    workload = make(CASE, CPU)
    workload.start()
    workload.denoise()
    assert workload.rollout.frame == 2 and workload.rollout.cache.frame == 2
