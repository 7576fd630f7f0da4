import pytest
import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from serve.bench.case import Case
from serve.bench.roofline import Peaks, Work, pass_work
from serve.bench.workload import Options, make


@pytest.mark.parametrize("chunk_frames", [1, 3])
@torch.no_grad()
def test_work_is_what_pytorch_counts_in_the_blocks(chunk_frames: int):
    """The difference of one layer more: without embeddings and head, which the floor leaves out."""
    case = Case(shape="nano", height=32, width=48, window_frames=7, chunk_frames=chunk_frames)
    workload = make(case, torch.device("cpu"), Options())
    workload.fill()
    blocks = workload.rollout.model.blocks
    counted = []
    for count in (len(blocks), len(blocks) - 1):
        workload.rollout.model.blocks = blocks[:count]
        # The fused attention of CPUs is unknown to PyTorch's counter; its products are not.
        with sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as flops:
            workload.one_pass()
        counted.append(flops.get_total_flops())
    work = pass_work(case)
    assert (work.gemm_flops + work.attention_flops) / len(blocks) == counted[0] - counted[1]


def test_text_attention_is_counted():
    shape = {"height": 64, "width": 64, "window_frames": 6}
    with_text = pass_work(Case(shape="wan2_1_1_3b", **shape))
    assert with_text.gemm_flops == 30 * (12 * 16 * 1536**2 + 4 * 16 * 1536 * 8960)


def test_the_floor_takes_the_slower_limit_of_each_part():
    work = Work(gemm_flops=4e9, attention_flops=1e9, gemm_bytes=1e9, attention_bytes=3e9, elementwise_bytes=2e9)
    assert work.floor_ms(Peaks(flops_per_s=1e12, bytes_per_s=1e12)) == pytest.approx(4 + 3 + 2)
