"""The form of an operation that runs: its Triton kernel on a GPU, its reference everywhere else."""

import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from functools import lru_cache

import torch
from torch import Tensor

from kernels.language import HAS_TRITON

log = logging.getLogger(__name__)

# Name of the operation, a tensor of its input, reference, launcher of the kernel -> the one to call.
Policy = Callable[[str, Tensor, Callable, Callable], Callable]


def by_device(name: str, x: Tensor, reference: Callable, fused: Callable) -> Callable:
    """The kernel for tensors on a GPU while no gradient is recorded (kernels have none), else the reference."""
    if not x.is_cuda or torch.is_grad_enabled():
        return reference
    _announce(name, HAS_TRITON)
    return fused if HAS_TRITON else reference


def reference_only(name: str, x: Tensor, reference: Callable, fused: Callable) -> Callable:
    return reference


def fused_only(name: str, x: Tensor, reference: Callable, fused: Callable) -> Callable:
    """The kernel also on the CPU, where only Triton's interpreter can run it: for tests."""
    return fused


_policy: ContextVar[Policy] = ContextVar("kernel policy", default=by_device)


def choose(name: str, x: Tensor, reference: Callable, fused: Callable) -> Callable:
    """The form of an operation to call; `x` is one of its inputs."""
    # torch.compile cannot look into a ContextVar, and would end its graph here; it fuses plain PyTorch itself.
    if torch.compiler.is_compiling():
        return reference
    return _policy.get()(name, x, reference, fused)


@contextmanager
def using(policy: Policy) -> Iterator[None]:
    """Let `policy` choose in this thread until the block ends: benchmarks and tests compare forms with it."""
    token = _policy.set(policy)
    try:
        yield
    finally:
        _policy.reset(token)


@lru_cache
def _announce(name: str, fused: bool) -> None:
    if fused:
        log.info("%s: Triton kernel", name)
    else:
        log.warning("%s: plain PyTorch, several times slower: Triton is not installed (pip install triton)", name)
