import logging
from collections.abc import Iterator
from contextlib import contextmanager
from types import SimpleNamespace

import pytest
import torch

from kernels import dispatch
from kernels.dispatch import by_device, choose, fused_only, reference_only, using


def reference() -> None: ...


def fused() -> None: ...


def on_gpu() -> SimpleNamespace:
    return SimpleNamespace(is_cuda=True, device=torch.device("cuda:1"))


def test_the_cpu_runs_references():
    assert by_device("op", torch.zeros(1), reference, fused) is reference


def test_a_gpu_runs_kernels_on_its_own_device_unless_a_gradient_is_recorded(
    unchecked: None, monkeypatch: pytest.MonkeyPatch
):
    current = ["cuda:0"]

    @contextmanager
    def device(chosen: torch.device) -> Iterator[None]:
        current.append(str(chosen))
        yield
        current.pop()

    monkeypatch.setattr(torch.cuda, "device", device)
    assert by_device("op", on_gpu(), reference, fused) is reference
    with torch.no_grad():
        assert by_device("op", on_gpu(), reference, lambda x: (x, current[-1]))("x") == ("x", "cuda:1")
    assert current == ["cuda:0"]


def test_a_gpu_without_triton_runs_references_and_warns_once(
    unchecked: None, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
):
    monkeypatch.setattr(dispatch, "HAS_TRITON", False)
    dispatch._announce.cache_clear()
    with torch.no_grad(), caplog.at_level(logging.INFO):
        for _ in range(2):
            assert by_device("op", on_gpu(), reference, fused) is reference
    assert [(record.levelname, record.message) for record in caplog.records] == [
        ("WARNING", "op: plain PyTorch, several times slower: Triton is not installed (pip install triton)")
    ]


def test_a_policy_holds_until_its_block_ends():
    x = torch.zeros(1)
    with using(fused_only):
        assert choose("op", x, reference, fused) is fused
        with using(reference_only):
            assert choose("op", x, reference, fused) is reference
        assert choose("op", x, reference, fused) is fused
    assert choose("op", x, reference, fused) is reference
