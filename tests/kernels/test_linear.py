"""Products by oneDNN are those of the definition, on CPUs alone, and can be given up again."""

import copy
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from gwm.chunks import ChunkPattern
from gwm.rollout import Rollout
from kernels.attention import Prefix, sdpa_prefix
from kernels.linear import BY_ONEDNN, Linear, onednn_computes, prefix_by_products
from tests.tiny import contract, latents, speech, tiny_dit

ROOT = Path(__file__).parents[2]
pytestmark = pytest.mark.skipif(not BY_ONEDNN, reason="this PyTorch has no oneDNN")
PRECISION = {torch.float32: 1e-5, torch.bfloat16: 2e-2}
PRECISION = {dtype: off for dtype, off in PRECISION.items() if onednn_computes(dtype)}


@pytest.mark.parametrize("dtype", PRECISION)
@pytest.mark.parametrize("shape", [(5,), (2, 7), (1, 3, 4)])
@torch.no_grad()
def test_products_are_those_of_float64(shape: tuple[int, ...], dtype: torch.dtype):
    layer, x = Linear(24, 40).to(dtype), torch.randn(*shape, 24, dtype=dtype)
    exact = torch.nn.functional.linear(x.double(), layer.weight.double(), layer.bias.double())
    usual = layer(x)
    layer.order(rows=7)
    assert "forward" in vars(layer) and layer(x).dtype == dtype
    torch.testing.assert_close(layer(x).double(), exact, atol=PRECISION[dtype], rtol=PRECISION[dtype])
    layer.order(None)
    assert "forward" not in vars(layer) and layer(x).equal(usual)


def test_quantised_weights_stay_as_they_are():
    class Quantised(torch.Tensor):
        pass

    layer = Linear(8, 8)
    layer.weight = torch.nn.Parameter(layer.weight.data.as_subclass(Quantised))
    layer.order(rows=4)
    assert "forward" not in vars(layer)


PAST = """import torch
from kernels.linear import Linear, onednn_computes
layer = Linear(8, 8).to(torch.bfloat16)
layer.order(rows=4)
assert "forward" not in vars(layer) and not onednn_computes(torch.bfloat16)
layer(torch.zeros(4, 8, dtype=torch.bfloat16))"""


def test_precisions_that_this_cpu_has_no_products_in_stay_as_they_are():
    """As on a CPU without AVX-512, where oneDNN would refuse."""
    environment = os.environ | {"ONEDNN_MAX_CPU_ISA": "AVX2"}
    subprocess.run([sys.executable, "-c", PAST], check=True, cwd=ROOT, env=environment)
    assert not onednn_computes(torch.float64)


@pytest.mark.parametrize("dtype", PRECISION)
@pytest.mark.parametrize("length", [1, 9, 13])
@torch.no_grad()
def test_attention_by_products_sees_the_prefix_alone(length: int, dtype: torch.dtype):
    q, k, v = torch.randn(2, 6, 3, 8), *torch.randn(2, 2, 13, 3, 8)
    k[:, length:], v[:, length:] = 100.0, 100.0  # what is not visible would be seen
    bias = torch.zeros(1, 13).masked_fill(torch.arange(13) >= length, float("-inf"))
    exact = sdpa_prefix(q.double(), k.double(), v.double(), Prefix(torch.tensor([length], dtype=torch.int32), bias))
    found = prefix_by_products(q.to(dtype), k.to(dtype), v.to(dtype), length)
    assert found.dtype == dtype
    torch.testing.assert_close(found.double(), exact, atol=10 * PRECISION[dtype], rtol=PRECISION[dtype])


@pytest.mark.parametrize("attention", [False, True])
@torch.no_grad()
def test_a_stream_stays_what_it_was(monkeypatch: pytest.MonkeyPatch, attention: bool):
    """Also past the window; and the products that were asked for are computed."""
    calls = []
    monkeypatch.setattr("gwm.block.prefix_by_products", lambda *a: calls.append(a) or prefix_by_products(*a))
    rules = contract(pattern=ChunkPattern(chunk_frames=1, window_chunks=3, sink_chunks=1, first_frames=1))
    usual = tiny_dit(rules.dit).eval()
    ordered = copy.deepcopy(usual)
    ordered.order(6, attention=attention)
    reference, condition, made = latents(1, batch_size=1), speech(1, batch_size=1), []
    for model in (usual, ordered):
        stream = Rollout(model, rules)
        stream.start(reference, condition, seed=3)
        made.append(torch.cat([stream.step(condition.map(lambda x, n=n: x + n)) for n in range(5)], dim=1))
    assert bool(calls) == attention
    torch.testing.assert_close(*made, atol=1e-4, rtol=1e-4)
    ordered.order(None, attention=attention)
    assert not any("forward" in vars(part) for part in ordered.modules())
