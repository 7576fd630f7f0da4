"""Each kernel at the sizes of a case; on a CPU plain PyTorch stands in for both."""

import pytest
import torch

from kernels.dispatch import fused_only, reference_only, using
from serve.bench.case import Case
from serve.bench.kernels import OPERATIONS, compare_kernels
from serve.bench.report import kernel_table
from serve.bench.timing import Stopwatch

TINY = Case(shape="one_layer", height=16, width=16, window_frames=4)
FP32 = 1e-5
LIKE = {"device": torch.device("cpu"), "dtype": torch.float32}


@pytest.mark.parametrize("name", OPERATIONS)
@torch.no_grad()
def test_operands_are_those_that_the_kernel_takes(name: str):
    """What does not fit would else be found on a rented card. Both forms make the same of them."""
    made = []
    for form in (fused_only, reference_only):
        torch.manual_seed(0)
        with using(form):
            made.append(OPERATIONS[name](TINY, LIKE).run())
    torch.testing.assert_close(*made, rtol=FP32, atol=FP32)


def test_bytes_are_those_of_what_is_read_and_written():
    """Of one latent frame of one token, width 32; latents of 4 x 2 x 2; pixels of 16 x 16 with 96 channels."""
    row, latent, picture = 32 * 4, 4 * 2 * 2 * 4, 16 * 16 * 96 * 4
    expected = {
        "residual_norm": 4 * row,
        "qk_norm_rope": 7 * row,
        "rms_norm": 2 * row,
        "turn_sinks": 2 * row,
        "step_update": 4 * latent,
        "causal_input": 2 * 3 * picture,
    }
    assert {name: make(TINY, LIKE).num_bytes for name, make in OPERATIONS.items()} == expected


def test_every_kernel_has_its_share_of_what_a_copy_reaches():
    result = compare_kernels(TINY, Stopwatch(torch.device("cpu")), rounds=2)
    assert list(result["kernels"]) == list(OPERATIONS)
    for name, row in result["kernels"].items():
        floor_us = 1e6 * OPERATIONS[name](TINY, LIKE).num_bytes / result["copy_bytes_per_s"]
        assert row["share_of_copy"] == pytest.approx(floor_us / row["us"]["kernel"])
        assert f"{row['share_of_copy']:.0%}" in kernel_table(result)
