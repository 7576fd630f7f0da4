"""The form of an operation that runs: its Triton kernel on a GPU, its reference everywhere else."""

import inspect
import logging
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from functools import lru_cache, partial
from importlib import import_module
from importlib.util import find_spec
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

# Importing Triton takes a second: not on machines where no kernel will run. Read once, as Triton itself reads it.
INTERPRETED = os.environ.get("TRITON_INTERPRET") == "1"
HAS_TRITON = find_spec("triton") is not None and (INTERPRETED or torch.cuda.is_available())
tl: Any = import_module("triton.language") if HAS_TRITON else SimpleNamespace(constexpr=int)
if TYPE_CHECKING:
    from typing import Any as constexpr
else:
    constexpr = tl.constexpr  # marks what a kernel is compiled for; without Triton nothing but this is looked at


def kernel(function: Callable) -> Any:
    """`triton.jit`; without Triton the function as it is, which no launcher calls."""
    # The tests' import hook wraps every function to check its annotations; Triton compiles the source below that.
    return import_module("triton").jit(inspect.unwrap(function)) if HAS_TRITON else function


def power_of_two(number: int) -> int:
    """The smallest power of two that is not below `number`: block sizes must be one."""
    return 1 << (number - 1).bit_length()


log = logging.getLogger(__name__)

# Name of the operation, a tensor of its input, reference, launcher of the kernel -> the one to call.
Policy = Callable[[str, Tensor, Callable, Callable], Callable]


def by_device(name: str, x: Tensor, reference: Callable, fused: Callable) -> Callable:
    """The kernel for tensors on a GPU while no gradient is recorded (kernels have none), else the reference."""
    if not x.is_cuda or torch.is_grad_enabled():
        return reference
    _announce(name, HAS_TRITON)
    return partial(_launched, x.device, fused) if HAS_TRITON else reference


def _launched(device: torch.device, fused: Callable, *arguments: Any) -> Any:
    """Triton launches on the current device, wherever the tensors are."""
    with torch.cuda.device(device):
        return fused(*arguments)


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
