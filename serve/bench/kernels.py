"""Every kernel of ours alone, at the sizes of a case: the bytes it must move against those that a copy moves."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from gwm.rope import rotation, time_rotation
from kernels.attention import Ring, qk_norm_rope
from kernels.causal_input import causal_input
from kernels.dispatch import Policy, by_device, reference_only, using
from kernels.residual_norm import residual_norm
from kernels.rms_norm import rms_norm
from kernels.sink_rope import turn_sinks
from kernels.step_update import step_update
from serve.bench.case import DTYPES, Case
from serve.bench.roofline import measure_peaks
from serve.bench.timing import Run, Stopwatch, percentiles, ratios, take_turns
from serve.graphs import capture_cuda

REPEATS = 8  # in a row, each on operands of its own: together they do not stay in a GPU's caches
DECODER_CHANNELS = 96  # of the last causal convolutions of Wan 2.1, in full resolution


@dataclass(frozen=True)
class Operation:
    """A call of one kernel, and the bytes that it must at least read and write."""

    run: Run
    num_bytes: int


Like = dict[str, Any]  # device and type of tensors


def _residual_norm(case: Case, like: Like) -> Operation:
    dit = case.contract().dit
    x, y = torch.randn(2, 1, case.chunk_frames, case.patches, dit.dim, **like)
    gate, scale, shift = torch.randn(3, 1, case.chunk_frames, 1, dit.dim, **like)
    norm = nn.LayerNorm(dit.dim, eps=dit.eps, elementwise_affine=False)
    return Operation(lambda: residual_norm(x, y, gate, norm, scale, shift), 4 * x.nbytes)


def _qk_norm_rope(case: Case, like: Like) -> Operation:
    dit, new = case.contract().dit, case.chunk_frames * case.patches
    q, k, v = torch.randn(3, 1, new, dit.dim, **like)
    norms = [nn.RMSNorm(dit.dim, eps=dit.eps, **like).requires_grad_(False) for _ in range(2)]
    positions = torch.arange(case.chunk_frames, device=like["device"])
    turn = rotation(positions, case.grid[0] // 2, case.grid[1] // 2, dit.head_dim)
    stored_k, stored_v = torch.zeros(2, 1, new, dit.num_heads, dit.head_dim, **like)
    ring = Ring(stored_k, stored_v, torch.arange(new, device=like["device"]))
    return Operation(lambda: qk_norm_rope(q, k, v, norms[0], norms[1], *turn, ring=ring), 7 * q.nbytes)


def _rms_norm(case: Case, like: Like) -> Operation:
    dit = case.contract().dit
    x = torch.randn(1, case.chunk_frames * case.patches, dit.dim, **like)
    norm = nn.RMSNorm(dit.dim, eps=dit.eps, **like).requires_grad_(False)
    return Operation(lambda: rms_norm(x, norm), 2 * x.nbytes)


def _turn_sinks(case: Case, like: Like) -> Operation:
    dit, sinks = case.contract().dit, case.contract().pattern.sink_frames * case.patches
    keys, sink_keys = torch.randn(2, dit.num_layers, 1, sinks, dit.num_heads, dit.head_dim, **like)
    written = torch.tensor(sinks, device=like["device"])
    turn = time_rotation(written, dit.head_dim)

    def run() -> torch.Tensor:
        turn_sinks(keys, sink_keys, *turn, written)
        return keys

    return Operation(run, 2 * keys.nbytes)


def _step_update(case: Case, like: Like) -> Operation:
    shape = 1, case.chunk_frames, case.contract().dit.in_channels, *case.grid
    x, velocity, noise = torch.randn(3, *shape, **like)
    return Operation(lambda: step_update(x, velocity, noise, sigma=1.0, sigma_next=0.6), 4 * x.nbytes)


def _causal_input(case: Case, like: Like) -> Operation:
    x = torch.randn(1, 1, case.height, case.width, DECODER_CHANNELS, **like)
    buffer, weight = torch.zeros(1, 3, *x.shape[2:], **like), torch.ones(DECODER_CHANNELS, **like)
    return Operation(lambda: causal_input(x, weight, buffer, eps=1e-6), 2 * buffer.nbytes)


OPERATIONS: dict[str, Callable[[Case, Like], Operation]] = {
    "residual_norm": _residual_norm,
    "qk_norm_rope": _qk_norm_rope,
    "rms_norm": _rms_norm,
    "turn_sinks": _turn_sinks,
    "step_update": _step_update,
    "causal_input": _causal_input,
}


@torch.no_grad()
def compare_kernels(case: Case, stopwatch: Stopwatch, *, rounds: int) -> dict[str, Any]:
    """Microseconds of each kernel, its share of a copy's bytes per second, and how long plain PyTorch takes."""
    like = {"device": stopwatch.device, "dtype": DTYPES[case.dtype]}
    copy = measure_peaks(case, stopwatch).bytes_per_s
    rows = {}
    for name, make in OPERATIONS.items():
        made = [make(case, like) for _ in range(REPEATS)]
        runs = {"kernel": _repeated(made, by_device), "plain": _repeated(made, reference_only)}
        if stopwatch.device.type == "cuda":  # from the host, calls would take longer than kernels
            runs = {form: capture_cuda(run) for form, run in runs.items()}
        times = take_turns(runs, stopwatch, rounds=rounds)
        us = {form: 1000 * percentiles(mine)["p50"] / REPEATS for form, mine in times.items()}
        share = 1e6 * made[0].num_bytes / copy / us["kernel"]
        rows[name] = {"us": us, "share_of_copy": share, "plain_over_kernel": ratios(times, "kernel")["plain"]}
    return {"case": case.name, "copy_bytes_per_s": copy, "kernels": rows}


def _repeated(operations: list[Operation], policy: Policy) -> Callable[[], None]:
    def run() -> None:
        with using(policy):
            for operation in operations:
                operation.run()

    return run
