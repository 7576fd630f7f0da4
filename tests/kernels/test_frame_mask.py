"""A table of frames is one rule in two forms: the mask of all pairs of tokens, and the blocks of FlexAttention."""

import logging
from collections.abc import Callable

import pytest
import torch
from torch import Tensor
from torch.nn.attention.flex_attention import create_block_mask

from kernels import attention as module
from kernels.attention import attention, flex_frames, frame_backend, sdpa_frames
from kernels.frame_mask import BLOCK_TOKENS, FrameMask

FP32, BF16 = 1e-5, 2e-2
# Frames shorter than a block and longer, that fill the last block and that do not.
SHAPES = [(3, 3, 5), (7, 4, 40), (5, 9, 128), (4, 4, 200), (13, 13, 32)]


def table(rows: int, columns: int, patches: int) -> FrameMask:
    """Nobody sees nothing, as attention to nothing has no value."""
    frames = torch.rand(rows, columns) < 0.4
    frames[torch.arange(rows), torch.arange(rows) % columns] = True
    return FrameMask(frames, patches)


def listed(count: Tensor, order: Tensor) -> list[list[int]]:
    return [sorted(row[:n].tolist()) for row, n in zip(order[0, 0], count[0, 0].tolist(), strict=True)]


@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_the_rule_of_the_blocks_is_the_mask(shape: tuple[int, int, int]):
    mask = table(*shape)
    query, key = (torch.arange(count) for count in mask.dense.shape)
    assert torch.equal(mask.blocks.mask_mod(0, 0, query[:, None], key[None]), mask.dense)


@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_blocks_are_those_that_pytorch_finds_token_by_token(shape: tuple[int, int, int]):
    mask = table(*shape)
    made = mask.blocks
    expected = create_block_mask(made.mask_mod, None, None, *mask.dense.shape, device="cpu", BLOCK_SIZE=BLOCK_TOKENS)
    assert made.seq_lengths == expected.seq_lengths and made.BLOCK_SIZE == expected.BLOCK_SIZE
    for kind in ("kv", "full_kv", "q", "full_q"):
        ours, theirs = ([getattr(m, f"{kind}_num_blocks"), getattr(m, f"{kind}_indices")] for m in (made, expected))
        assert listed(*ours) == listed(*theirs), kind


@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_flex_attention_is_attention_under_the_mask(shape: tuple[int, int, int]):
    """On a CPU it has no gradients: these are compared on GPUs."""
    mask = table(*shape)
    lengths = mask.dense.shape
    q, k, v = (torch.randn(2, length, 2, 16) for length in (lengths[0], lengths[1], lengths[1]))
    torch.testing.assert_close(flex_frames(q, k, v, mask), sdpa_frames(q, k, v, mask), rtol=FP32, atol=FP32)


def test_the_cpu_takes_the_dense_mask_and_a_gpu_flex_attention(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
):
    frame_backend.cache_clear()
    installed = {"triton"}
    monkeypatch.setattr(module, "find_spec", lambda name: name if name in installed else None)
    with caplog.at_level(logging.INFO):
        chosen = [frame_backend(torch.device(kind)) for kind in ("cpu", "cuda", "cuda", "cpu")]
    assert chosen == ["sdpa", "flex", "flex", "sdpa"]
    assert [record.message for record in caplog.records] == [
        "attention of masked clips on cpu: sdpa", "attention of masked clips on cuda: flex",
    ]  # fmt: skip
    frame_backend.cache_clear()
    installed.clear()
    assert frame_backend(torch.device("cuda")) == "sdpa"
    frame_backend.cache_clear()


def test_the_choice_decides_what_runs(monkeypatch: pytest.MonkeyPatch):
    ran = []
    monkeypatch.setattr(module, "frame_backend", lambda device: "flex")
    monkeypatch.setattr(module, "flex_frames", lambda q, k, v, visible: ran.append(visible) or q)
    q, mask = torch.randn(1, 9, 1, 16), table(3, 3, 3)
    attention(q, q, q, mask)
    assert ran == [mask]


@pytest.mark.gpu
@pytest.mark.parametrize("shape", [(13, 13, 96), (7, 7, 300)], ids=str)
def test_compiled_flex_attention_is_the_reference_on_a_gpu(shape: tuple[int, int, int]):
    mask = table(*shape)
    mask = FrameMask(mask.frames.cuda(), mask.patches)
    length = mask.frames.shape[0] * mask.patches
    q, k, v = (torch.randn(1, length, 4, 64, device="cuda", dtype=torch.bfloat16, requires_grad=True) for _ in range(3))
    expected, made = sdpa_frames(q, k, v, mask), attention(q, k, v, mask)
    torch.testing.assert_close(made, expected, rtol=BF16, atol=BF16)
    weight = torch.randn_like(expected)
    theirs, ours = (torch.autograd.grad((weight * z).sum(), (q, k, v)) for z in (expected, made))
    torch.testing.assert_close(ours, theirs, rtol=BF16, atol=BF16)


def test_flex_is_compiled_for_more_lengths_than_pytorchs_limit_and_once_for_each(monkeypatch: pytest.MonkeyPatch):
    """Past its limit PyTorch would hold the scores of all pairs."""
    monkeypatch.setattr(torch._dynamo.config, "recompile_limit", 8)
    compile, made = torch.compile, []

    def eager(graph: torch.fx.GraphModule, inputs: list[Tensor]) -> Callable:
        made.append(graph)
        return graph.forward

    monkeypatch.setattr(torch, "compile", lambda function, **how: compile(function, backend=eager, **how))
    module._flex.cache_clear()
    flex = module._flex(compiled=True)
    module._flex.cache_clear()
    for length in range(2, 12):
        q = torch.randn(1, 2, 3 * length, 8)
        for mask in (table(length, length, 3), table(length, length, 3)):
            expected = torch.nn.functional.scaled_dot_product_attention(q, q, q, attn_mask=mask.dense)
            torch.testing.assert_close(flex(q, q, q, block_mask=mask.blocks), expected, rtol=FP32, atol=FP32)
    assert len(made) == 10
