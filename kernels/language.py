"""Triton's language where kernels can run: on a GPU, or on the CPU through Triton's interpreter."""

import inspect
import os
from collections.abc import Callable
from importlib import import_module
from importlib.util import find_spec
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import torch

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
