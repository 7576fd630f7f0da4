import logging
import math
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from kernels import attention as module
from kernels.attention import Prefix, attention, prefix_backend

FP32 = 1e-5


def hidden(total: int, length: int) -> torch.Tensor:
    return torch.zeros(1, total).index_fill_(1, torch.arange(length, total), -torch.inf)


def test_a_prefix_is_softmax_over_the_first_keys():
    """The rest of the storage holds what no query may see, NaN included."""
    q, k, v = torch.randn(2, 3, 4, 8), torch.randn(2, 9, 4, 8), torch.randn(2, 9, 4, 8)
    visible = Prefix(torch.tensor([5], dtype=torch.int32), hidden(9, 5))
    scores = torch.einsum("blne,bsne->bnls", q.double(), k[:, :5].double()) / math.sqrt(8)
    expected = torch.einsum("bnls,bsne->blne", scores.softmax(-1), v[:, :5].double())
    k[:, 5:], v[:, 5:] = 1e4, 1e4
    torch.testing.assert_close(attention(q, k, v, visible).double(), expected, rtol=FP32, atol=FP32)


def test_the_cpu_takes_pytorchs_attention_and_says_so_once(caplog: pytest.LogCaptureFixture):
    prefix_backend.cache_clear()
    with caplog.at_level(logging.INFO):
        for _ in range(2):
            assert prefix_backend(torch.device("cpu"), torch.bfloat16, 1) == "sdpa"
    assert [record.message for record in caplog.records] == ["attention of batch 1 in torch.bfloat16 on cpu: sdpa"]


@pytest.mark.parametrize(
    ("installed", "capability", "batch_size", "backend"),
    [
        ({"flash_attn_interface", "flash_attn"}, 9, 2, "flash3"),
        ({"flash_attn_interface", "flash_attn"}, 8, 2, "flash2"),
        ({"flash_attn"}, 9, 1, "flash2"),
        (set(), 9, 1, "varlen"),
        (set(), 9, 2, "sdpa"),
    ],
)
def test_the_best_installed_backend_is_taken_on_a_gpu(
    monkeypatch: pytest.MonkeyPatch, installed: set, capability: int, batch_size: int, backend: str
):
    prefix_backend.cache_clear()
    monkeypatch.setattr(module, "find_spec", lambda name: name if name in installed else None)
    monkeypatch.setattr(module, "import_module", lambda name: SimpleNamespace(flash_attn_with_kvcache=print))
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: (capability, 0))
    assert prefix_backend(torch.device("cuda"), torch.bfloat16, batch_size) == backend
    assert prefix_backend(torch.device("cuda"), torch.float32, batch_size) == "sdpa"
    prefix_backend.cache_clear()


def test_a_package_that_only_shares_the_name_is_not_taken(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    """flash-attn-4 installs flash_attn/cute and nothing beside it."""
    (tmp_path / "flash_attn" / "cute").mkdir(parents=True)
    monkeypatch.syspath_prepend(tmp_path)
    prefix_backend.cache_clear()
    assert module.find_spec("flash_attn") is not None
    assert prefix_backend(torch.device("cuda"), torch.bfloat16, 1) == "varlen"
    prefix_backend.cache_clear()
    del sys.modules["flash_attn"]


@pytest.mark.gpu
@pytest.mark.parametrize("length", [1, 700, 1024])
def test_every_backend_of_this_gpu_agrees(length: int):
    q, k, v = (torch.randn(1, s, 4, 128, device="cuda", dtype=torch.bfloat16) for s in (200, 1024, 1024))
    prefix = Prefix(torch.tensor([length], dtype=torch.int32, device="cuda"), hidden(1024, length).cuda())
    made, expected = attention(q, k, v, prefix), module.sdpa_prefix(q, k, v, prefix)
    torch.testing.assert_close(made, expected, rtol=2e-2, atol=2e-2)
