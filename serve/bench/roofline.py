"""Lower bound of the time of a pass on this machine, from its arithmetic and its memory (roofline).

Work counts 2 floating-point operations per multiply-add. Bytes: weights once, the visible keys and values once, the
inputs and outputs of every product, and each element-wise operation as one of `kernels`: one read, one write.
"""

from dataclasses import dataclass

import torch

from serve.bench.case import DTYPES, Case
from serve.bench.timing import Stopwatch


@dataclass(frozen=True, kw_only=True)
class Peaks:
    """Measured on this machine in the type that is timed."""

    flops_per_s: float
    bytes_per_s: float


@dataclass(frozen=True, kw_only=True)
class Work:
    """One pass of a chunk against a full window."""

    gemm_flops: float
    attention_flops: float
    gemm_bytes: float
    attention_bytes: float
    elementwise_bytes: float

    def floor_ms(self, peaks: Peaks) -> float:
        """Products, attention and the rest one after the other, each at the slower of its two limits."""
        gemm = max(self.gemm_flops / peaks.flops_per_s, self.gemm_bytes / peaks.bytes_per_s)
        attention = max(self.attention_flops / peaks.flops_per_s, self.attention_bytes / peaks.bytes_per_s)
        return 1000 * (gemm + attention + self.elementwise_bytes / peaks.bytes_per_s)


def pass_work(case: Case) -> Work:
    """Work of one evaluation of the network, text attention included where the model has it."""
    contract = case.contract()
    dit, pattern, size = contract.dit, contract.pattern, torch.finfo(DTYPES[case.dtype]).bits // 8
    new = pattern.chunk_frames * case.patches
    visible = (pattern.sink_frames + pattern.ring_frames) * case.patches
    d, f, text = dit.dim, dit.ffn_dim, case.text_tokens if dit.of_rate("tokens") else 0
    products = 2 * (4 + (2 if text else 0)) * new * d * d + 4 * new * d * f
    weights = (4 + (2 if text else 0)) * d * d + 2 * d * f
    inputs = (8 + (4 if text else 0)) * new * d + 2 * new * (d + f)
    # K1 reads two and writes two, at two sites or three; K2 reads three and writes four; K3 reads and writes one.
    elementwise = (4 + 4 + (4 + 2 if text else 0) + 7) * new * d + 2 * new * f
    layers = float(dit.num_layers)
    return Work(
        gemm_flops=layers * products,
        attention_flops=layers * 4 * new * (visible + text) * d,
        gemm_bytes=layers * (weights + inputs) * size,
        attention_bytes=layers * 2 * (visible + text + new) * d * size,
        elementwise_bytes=layers * elementwise * size,
    )


def measure_peaks(case: Case, stopwatch: Stopwatch) -> Peaks:
    """The best of a large matrix product and of a large copy, as PyTorch does them here."""
    device = stopwatch.device
    side = 8192 if device.type == "cuda" else 1536
    like = {"device": device, "dtype": DTYPES[case.dtype]}
    a, b = torch.randn(side, side, **like), torch.randn(side, side, **like)
    source = torch.zeros(2**31 if device.type == "cuda" else 2**26, device=device, dtype=torch.uint8)
    copy = torch.empty_like(source)
    product_ms = min(stopwatch.ms(lambda: a @ b) for _ in range(5))
    copy_ms = min(stopwatch.ms(lambda: copy.copy_(source)) for _ in range(5))
    return Peaks(flops_per_s=2e3 * side**3 / product_ms, bytes_per_s=2e3 * source.nbytes / copy_ms)
