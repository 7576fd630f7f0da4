import pytest
import torch

from gwm.rollout import Rollout
from serve.bench import peers
from serve.bench.case import Case
from serve.bench.compare import compare_blocks
from serve.bench.counters import counting
from serve.bench.peers import FlashDreamsCache, absent, diffusers_runs, installed_caches
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
    made = compare_blocks(WITH_TEXT, Stopwatch(CPU), rounds=1)
    sides = [f"{side}, {what}" for side in ("engine", "diffusers") for what in ("whole window", "chunk alone")]
    assert list(made["chunk_ms"]) == sides
    assert "attends to a text" in absent(Case(shape="nano", height=32, width=32))["diffusers"]


def test_what_is_not_installed_is_named_with_its_command(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(peers, "find_spec", lambda name: None)
    assert absent(WITH_TEXT) == {
        "flashdreams": "not installed: pip install --no-deps flashdreams==0.1.0 nvidia-ml-py",
        "diffusers": "not installed: pip install diffusers",
    }
    assert installed_caches(WITH_TEXT) == {}


def test_without_a_cache_diffusers_computes_the_window_anew():
    """Half as many passes as the chunk alone has (no commit), each of four times as many frames."""
    pytest.importorskip("diffusers", reason="pip install diffusers")
    counts = []
    for run in diffusers_runs(WITH_TEXT, CPU).values():
        with counting([]) as made:
            run()
        counts.append(made.kernel_calls)
    assert counts[0] / counts[1] == pytest.approx(2 / 3, rel=0.01)
