import pytest
import torch

from gwm.rollout import Rollout
from serve.bench.case import Case
from serve.bench.counters import counting
from serve.bench.ladder import climb
from serve.bench.peers import FlashDreamsCache, diffusers_runs
from serve.bench.timing import Stopwatch
from tests.serve.bench.test_caches import stream
from tests.tiny import FAR, contract, latents, speech, tiny_dit

CPU = torch.device("cpu")
WITH_TEXT = Case(shape="small_wan", height=32, width=32, window_frames=4, text_tokens=4)


@torch.no_grad()
def test_flashdreams_cache_makes_the_same_stream():
    pytest.importorskip("flashdreams", reason="pip install --no-deps flashdreams==0.1.0 nvidia-ml-py")
    rules, model, condition, reference = contract(FAR), tiny_dit(), speech(10), latents(1)
    ring, other = (Rollout(model, rules, batch_size=2, **cache) for cache in ({}, {"cache": FlashDreamsCache}))
    made = [stream(rollout, condition, reference) for rollout in (ring, other)]
    torch.testing.assert_close(*made, rtol=1e-5, atol=1e-4)


def test_diffusers_takes_part_where_it_is_installed_and_the_model_has_text():
    pytest.importorskip("diffusers", reason="pip install diffusers")
    times = climb(WITH_TEXT, Stopwatch(CPU), rounds=1, compile=False)["chunk_ms"]
    assert list(times)[:2] == ["diffusers, whole window", "diffusers, chunk alone"]
    assert diffusers_runs(Case(shape="nano", height=32, width=32), CPU) == {}


def test_without_a_cache_diffusers_computes_the_window_anew():
    """Half as many passes as the chunk alone has (no commit), each of four times as many frames."""
    pytest.importorskip("diffusers", reason="pip install diffusers")
    counts = []
    for run in diffusers_runs(WITH_TEXT, CPU).values():
        with counting([]) as made:
            run()
        counts.append(made.kernel_calls)
    assert counts[0] / counts[1] == pytest.approx(2 / 3, rel=0.01)
